"""Whether a Ray cluster and its nodes live. Ray itself waits a minute for a lost head, and longer for lost nodes."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from fast_sam3d.errors import FastSam3dError

__all__ = ["ClusterWatch"]

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
LOST_SECONDS = 5.0  # that a node does not accept connections
SILENT_SECONDS = 8.0  # that the head does not list its nodes


class ClusterWatch:
    """A thread that asks the head for its nodes, and connects to each.

    Args:
        ray: the connected package.
        address: of the cluster, for messages; None: it was started here.
    """

    def __init__(self, ray: Any, address: str | None) -> None:
        self._ray, self._where = ray, f"at {address}" if address else "that was started here"
        self._own = ray.get_runtime_context().get_node_id()
        self._answered = time.monotonic()
        self._lost: frozenset[str] = frozenset()
        self._refused: dict[str, float] = {}  # node, and since when it does not accept connections
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="cluster watch", daemon=True).start()

    def lost_nodes(self) -> frozenset[str]:
        """Ids of the nodes that have died.

        Raises:
            FastSam3dError: the head does not answer, or the node of this process has died.
        """
        silent = time.monotonic() - self._answered
        if self.dead:
            what = (
                f"does not answer for {silent:.0f} s"
                if silent > SILENT_SECONDS
                else "has lost the node of this command"
            )
            log.error("the Ray cluster is lost; ending")  # which takes some seconds
            raise FastSam3dError(
                f"the Ray cluster {self._where} {what}: the finished objects are kept; start a cluster if it has ended "
                "(`ray status`), then run the same command, it resumes"
            )
        return self._lost

    @property
    def dead(self) -> bool:
        """Whether the head does not answer, or the node of this process has died."""
        return time.monotonic() - self._answered > SILENT_SECONDS or self._own in self._lost

    def stop(self) -> None:
        """End the thread, which may wait for a dead head."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_SECONDS):
            try:
                nodes = self._ray.nodes()
            except Exception:  # of a cluster that ends, of any kind: it has not answered
                continue
            if self._stopped.is_set():
                return
            self._lost = frozenset(str(node["NodeID"]) for node in nodes if not self._lives(node))
            self._answered = time.monotonic()

    def _lives(self, node: Mapping[str, Any]) -> bool:
        name, now = str(node["NodeID"]), time.monotonic()
        if not node["Alive"]:
            return False
        try:
            with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=1.0):
                self._refused.pop(name, None)
        except OSError:
            self._refused.setdefault(name, now)
        return now - self._refused.get(name, now) <= LOST_SECONDS
