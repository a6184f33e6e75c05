"""`map_threads`."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from fast_sam3d.render import threads
from fast_sam3d.render.threads import map_threads


@pytest.mark.parametrize("count", [1, 3])
def test_results_are_in_order_and_errors_are_raised(monkeypatch, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    assert map_threads(lambda n: n * n, range(9)) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda n: 1 // n, [2, 1, 0])


@pytest.mark.parametrize(("count", "together"), [(1, 1), (3, 3), (64, threads.MAX_THREADS)])
def test_as_many_threads_as_torch(monkeypatch, count, together):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    meeting = threading.Barrier(together, timeout=20)
    map_threads(lambda _: meeting.wait(), range(together))
    names = set(map_threads(lambda _: threading.current_thread().name, range(50)))
    assert len(names) <= together
    assert (names == {threading.current_thread().name}) == (count == 1)


def test_sequential_without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert set(map_threads(lambda _: threading.current_thread(), range(9))) == {threading.current_thread()}
