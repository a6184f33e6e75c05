"""Work side by side."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from fast_sam3d.render import threads
from fast_sam3d.render.threads import side_by_side


@pytest.mark.parametrize("count", [1, 3])
def test_results_in_order_and_errors_as_they_are(monkeypatch, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    assert side_by_side(lambda n: n * n, range(9)) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda n: 1 // n, [2, 1, 0])


@pytest.mark.parametrize(("count", "together"), [(1, 1), (3, 3), (64, threads.MOST)])
def test_as_many_at_once_as_torch_has_threads(monkeypatch, count, together):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    meeting = threading.Barrier(together, timeout=20)
    side_by_side(lambda _: meeting.wait(), range(together))
    names = set(side_by_side(lambda _: threading.current_thread().name, range(50)))
    assert len(names) <= together
    assert (names == {threading.current_thread().name}) == (count == 1)


def test_one_after_the_other_without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert set(side_by_side(lambda _: threading.current_thread(), range(9))) == {threading.current_thread()}
