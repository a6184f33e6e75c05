"""Parallel measurement, and resuming it."""

from __future__ import annotations

import pytest

from fast_sam3d.bench import collect as collecting
from fast_sam3d.bench.collect import collect, run_done
from fast_sam3d.bench.record import Record

started: list[object] = []


def start(job, threads):
    started.append((job, threads))


def work(key):
    return [{"key": key, "twice": 2 * int(key)}]


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_are_in_the_order_of_the_keys(processes):
    found = collect([3, 1, 2], start, work, "job", processes)
    assert found == {3: [{"key": 3, "twice": 6}], 1: [{"key": 1, "twice": 2}], 2: [{"key": 2, "twice": 4}]}
    assert list(found) == [3, 1, 2]


def test_finished_objects_are_neither_loaded_nor_measured_again(tmp_path):
    first = collect(["1", "2"], start, work, None, kept=Record(tmp_path, {}))
    started.clear()
    again = collect(["2", "1"], start, None, None, kept=Record(tmp_path, {}))
    assert again == first and not started


def test_an_interrupt_loses_only_the_current_object(tmp_path):
    seen = []

    def stopped(key):
        if key == 3:
            raise KeyboardInterrupt
        seen.append(key)
        return work(key)

    with pytest.raises(KeyboardInterrupt):
        collect([1, 2, 3], start, stopped, None, kept=Record(tmp_path, {}))
    assert list(Record(tmp_path, {}).rows) == [1, 2]


def two_of_three(key):
    run_done()
    run_done()
    return work(key)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_run_advances_the_bar(monkeypatch, processes):
    bars = []

    class Bar(collecting.Bar):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            bars.append((self, seen := []))
            self.seen = seen

        def update(self, done, *arguments):
            super().update(done, *arguments)
            self.seen.append(done)

    monkeypatch.setattr(collecting, "Bar", Bar)
    collect(["1", "2"], start, two_of_three, None, processes, runs=3)
    ((bar, seen),) = bars
    assert bar.total == 6 and seen[-1] == 6, "those of an object that could not be loaded too"
    if processes == 1:
        assert seen == [1, 2, 3, 4, 5, 6]
