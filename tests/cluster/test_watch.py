"""Dead heads and nodes of a cluster."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fast_sam3d.cluster import watch as module
from fast_sam3d.cluster.watch import ClusterWatch
from fast_sam3d.errors import FastSam3dError
from tests.cluster.fake_ray import FakeRay

CORES = {"CPU": 1.0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.2)


@pytest.fixture
def ray() -> FakeRay:
    return FakeRay(CORES, CORES)


@pytest.fixture
def watch(ray: FakeRay) -> Iterator[ClusterWatch]:
    watch = ClusterWatch(ray, "head:6379")
    yield watch
    watch.stop()


def until(true: Callable[[], object]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it does not happen")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_living_cluster_has_lost_no_node(ray, watch):
    asked = ray.asked
    until(lambda: ray.asked > asked + 5)
    assert watch.lost_nodes() == frozenset() and not watch.dead


@pytest.mark.parametrize("change", [{"Alive": False}, {"NodeManagerPort": closed_port()}])
def test_a_node_that_has_died_is_lost(ray, watch, change):
    ray.nodes()[1] |= change
    until(lambda: watch.lost_nodes() == {"node1"})
    assert not watch.dead


def test_the_node_of_the_command_has_died(ray, watch, monkeypatch):
    monkeypatch.setattr(watch, "_own", "node0")
    ray.nodes()[0]["Alive"] = False
    until(lambda: watch.dead)
    with pytest.raises(
        FastSam3dError, match="at head:6379 has lost the node of this command: the finished objects are"
    ):
        watch.lost_nodes()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_head_that_does_not_answer(ray, watch, monkeypatch, hangs):
    ended = threading.Event()

    def nodes() -> list[dict[str, object]]:
        if hangs:
            ended.wait(20)
        raise RuntimeError("of Ray")

    monkeypatch.setattr(ray, "nodes", nodes)
    until(lambda: watch.dead)
    with pytest.raises(FastSam3dError, match=r"does not answer for \d+ s: the finished objects are kept"):
        watch.lost_nodes()
    ended.set()
