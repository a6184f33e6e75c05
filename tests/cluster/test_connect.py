"""Connection to Ray, and the capacity of a cluster."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import types

import pytest

from fast_sam3d.cluster import connect
from fast_sam3d.cluster.connect import available_cores, capacity, connected, import_ray
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.errors import ConfigError, FastSam3dError
from tests.cluster.fake_ray import FakeRay
from tests.stand_in import files, run


class FakePackage:
    """A ray package that records how it was started."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.options, self.stopped = error, {}, 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.options = options
        if self.error is not None:
            raise self.error

    def shutdown(self) -> None:
        self.stopped += 1


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakePackage:
    ray = FakePackage()
    monkeypatch.setattr(connect, "import_ray", lambda: ray)
    monkeypatch.setattr(connect, "_answers", lambda address: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray


@pytest.mark.parametrize("there", [None, types.ModuleType("ray")])
def test_ray_is_not_installed(monkeypatch, object_folder, elsewhere, capsys, there):
    monkeypatch.setitem(sys.modules, "ray", there)  # None: not installed; else a folder with that name
    code, out, err = run(capsys, "scene", "--image_dir", object_folder, "--tag", "mini", "--engine", "ray")
    assert (code, out) == (2, "")
    assert "pip install 'fast-sam3d[ray]'" in err
    assert files(elsewhere) == set()


def test_flags_of_the_cluster_need_the_engine(object_folder, elsewhere, capsys):
    code, _, err = run(capsys, "scene", "--image_dir", object_folder, "--tag", "mini", "--max_retries", 2)
    assert code == 2
    assert "--max_retries is for a cluster: add --engine ray" in err


def test_starts_a_local_cluster(package):
    with connected(ClusterSettings(workers=2)) as ray:
        assert ray is package
        assert package.stopped == 0
    assert package.stopped == 1
    assert package.options["address"] == "local"
    assert package.options["num_cpus"] == max(available_cores(), 2)
    assert not package.options["include_dashboard"] and not package.options["log_to_driver"]


def test_more_workers_than_cores_are_possible(package, caplog):
    with connected(ClusterSettings(workers=1000)):
        pass
    assert package.options["num_cpus"] == 1000
    assert "they will be slow" in caplog.text


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_connects_to_a_running_cluster(package, monkeypatch, by):
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with connected(ClusterSettings(address="head:6379" if by == "flag" else None)):
        pass
    assert package.options["address"] == "head:6379"
    assert "num_cpus" not in package.options and "object_store_memory" not in package.options


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionError("timed out"), ConfigError, "no Ray cluster answers at head:6379"),
        (RuntimeError("Version mismatch: 2.1\nmore"), FastSam3dError, "join the Ray cluster at head:6379: Version mis"),
    ],
)
def test_unreachable_cluster(package, error, kind, words):
    package.error = error
    with pytest.raises(kind, match=words), connected(ClusterSettings(address="head:6379")):
        pass


def test_processes_of_a_failed_start_are_ended(package):
    package.error = RuntimeError("timed out during startup")
    with pytest.raises(FastSam3dError, match="could not start Ray here"), connected(ClusterSettings()):
        pass
    assert package.stopped == 1


def greets(stream: socket.socket) -> None:
    stream.recv(100)
    stream.sendall(bytes(3) + b"\x04" + bytes(5))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (greets, True),
        (lambda stream: stream.sendall(b"HTTP/1.1 400"), False),
        (lambda stream: stream.recv(9999), False),
    ],
)
def test_only_a_server_of_grpc_can_be_a_head(monkeypatch, answer, expected):
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 0.3)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            stream, _ = server.accept()
            held.append(stream)
            answer(stream)

        thread = threading.Thread(target=serve)
        thread.start()
        assert connect._answers(f"127.0.0.1:{server.getsockname()[1]}") is expected
        thread.join()
        held[0].close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "127.0.0.1:99999", "[::1]:1", ":", "a\0b:1"])
def test_no_cluster_at_the_address(address, monkeypatch):
    ray = FakePackage()
    monkeypatch.setattr(connect, "import_ray", lambda: ray)
    with pytest.raises(ConfigError, match="no Ray cluster answers at"), connected(ClusterSettings(address=address)):
        pass
    assert ray.options == {}


def test_the_sigterm_handler_is_restored(package):
    def ours(*received: object) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with connected(ClusterSettings()):
            assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_sends_no_usage_reports():
    pytest.importorskip("ray")
    import_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "count"),
    [
        ([{"CPU": 5.0}, {"CPU": 3.0}], 2, 0.0, 3),
        ([{"CPU": 5.0, "GPU": 2.0}, {"CPU": 9.0}], 1, 1.0, 2),
        ([{"CPU": 5.0, "GPU": 1.0}], 1, 1 / 3, 3),
        ([{"CPU": 1.0, "GPU": 4.0}], 2, 1.0, 0),
        ([{"GPU": 4.0}], 1, 1.0, 0),
    ],
)
def test_capacity_of_a_cluster(nodes, cpus, gpus, count):
    assert capacity(FakeRay(*nodes), cpus, gpus) == count


def test_a_dead_node_has_no_room():
    ray = FakeRay({"CPU": 4.0})
    ray.nodes()[0]["Alive"] = False
    assert capacity(ray, 1, 0.0) == 0
