"""Connection to a running Ray cluster, or to a temporary one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.errors import ConfigError, FastSam3dError, first_line
from fast_sam3d.outputs.interrupts import interrupts_deferred

__all__ = ["INSTALL", "capacity", "connected", "import_ray"]

log = logging.getLogger(__name__)

INSTALL = "pip install 'fast-sam3d[ray]'"
ANSWER_SECONDS = 8.0
HTTP2_SETTINGS = b"\x04"  # a type of frame (RFC 9113, section 6.5)
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + HTTP2_SETTINGS + bytes(5)  # section 3.4
OBJECT_STORE_BYTES = 100 * 2**20  # pictures and results are files, so messages between processes are small


def import_ray() -> Any:
    """The `ray` package, without usage reports to its developers.

    Raises:
        ConfigError: Ray is not installed.
    """
    # Ray reads these at import. Dead workers are reported by the engine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray, which is not installed here: {INSTALL}") from error
    if not hasattr(ray, "init"):  # a folder with that name
        raise ConfigError(f"--engine ray needs Ray, but another package named ray is installed: {INSTALL}")
    return ray


@contextlib.contextmanager
def connected(settings: ClusterSettings) -> Iterator[Any]:
    """Yield the connected `ray` package; a cluster that was started here ends with the block.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at the address.
        FastSam3dError: the connection fails, for example because of another version of Ray.
    """
    ray = import_ray()
    if ray.is_initialized():  # by the calling program, which also shuts it down
        yield ray
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        options["address"] = address
    else:
        cores = available_cores()
        asked = (settings.workers or 1) * settings.cpus_per_worker
        if asked > cores:
            log.warning("the workers use %d cores, but there are %d: they will be slow", asked, cores)
        options |= {
            "address": "local", "num_cpus": max(cores, asked), "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }  # fmt: skip
    absent = f"no Ray cluster answers at {address}: start one with `ray start --head`"
    if address and not _answers(address):
        raise ConfigError(absent)
    try:
        with interrupts_deferred(), _signals_kept():
            ray.init(**options)
    except ConnectionError as error:
        raise ConfigError(absent) from error
    except Exception as error:
        with interrupts_deferred(), _signals_kept():
            ray.shutdown()  # of processes that it has started
        where = f"join the Ray cluster at {address}" if address else "start Ray here"
        raise FastSam3dError(f"could not {where}: {first_line(error)}") from error
    try:
        yield ray
    finally:
        with interrupts_deferred(), _signals_kept():
            ray.shutdown()


def capacity(ray: Any, cpus: int, gpus: float) -> int:
    """Number of workers that fit into the current nodes of the cluster."""
    count = 0
    for has in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        room = int(has.get("CPU", 0.0) // cpus)
        count += min(room, int(has.get("GPU", 0.0) / gpus + 1e-9)) if gpus else room
    return count


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _answers(address: str) -> bool:
    """Whether a server of gRPC, which is HTTP/2, is at host:port: `ray.init` waits for one for three minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:  # "auto" and the like, which Ray looks for on this machine
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as stream:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return True
            stream.sendall(HTTP2_GREETING)
            return stream.recv(9)[3:4] == HTTP2_SETTINGS
    except (OSError, OverflowError, ValueError):  # also of a port that is no number
        return False


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the SIGTERM handler: Ray installs one that would exit without cleaning up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:  # None: not installed from Python
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
