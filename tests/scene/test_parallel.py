"""Objects of a scene in parallel processes."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import torch

from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import OutputError
from fast_sam3d.scene import parallel as engines
from fast_sam3d.scene.parallel import in_parallel, processes_for
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")


class Recorder:
    """A worker that records its calls on disk and then calls `act`."""

    def __init__(self, place, act=lambda number: None):
        self.place, self.act, self.prepared = place, act, []
        self.smaller = [("gaussian",), ("gaussian_4",)]

    def prepare(self, task):
        self.prepared.append(task.group)

    def voxels(self, task):
        return task.number % 10

    def process(self, task, formats=(), ended=()):
        with open(self.place / "log", "a") as file:
            file.write(f"{task.number} {os.getpid()}\n")
        self.act(task.number)
        return ObjectOutcome(task.number, "complete", formats=formats, out_of_memory=ended)

    @property
    def log(self):
        return [tuple(map(int, line.split())) for line in (self.place / "log").read_text().splitlines()]


def tasks_of(place, *groups):
    place.joinpath("out").mkdir()
    return [
        ObjectTask(place, InputConfig(pointmap="none"), number, place / "out" / str(number), {}, tuple(group))
        for group in groups
        for number in group
    ]


def test_groups_run_in_order_with_large_objects_first(tmp_path):
    def wait_for_the_other(number):  # so that both processes have begun before either is done with its first
        while len(worker.log) < (2 if number < 10 else 5):  # a hang ends with the time limit of the test
            time.sleep(0.01)

    worker = Recorder(tmp_path, wait_for_the_other)
    outcomes = list(in_parallel(worker, 2)(tasks_of(tmp_path, (1, 3, 2), (15, 19, 11))))
    assert sorted(outcome.number for outcome in outcomes) == [1, 2, 3, 11, 15, 19]
    assert worker.prepared == [(1, 3, 2), (15, 19, 11)]
    assert {number for number, _ in worker.log[:2]} == {3, 2}
    assert {number for number, _ in worker.log[3:5]} == {19, 15}
    assert len({pid for _, pid in worker.log}) > 1 and os.getpid() not in {pid for _, pid in worker.log}


def test_object_is_retried_alone_after_its_process_died(tmp_path, caplog):
    def die_once(number):
        if number == 3 and sum(n == 3 for n, _ in worker.log) == 1:
            (tmp_path / "out" / ".fast_sam3d-xyz.unfinished").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)

    worker = Recorder(tmp_path, die_once)
    outcomes = list(in_parallel(worker, 2)(tasks_of(tmp_path, (1, 2, 3, 4))))
    assert sorted((o.number, o.status) for o in outcomes) == [(n, "complete") for n in (1, 2, 3, 4)]
    assert "object 3: its process ended with signal 9" in caplog.text
    assert worker.log[-1][0] == 3
    assert not any((tmp_path / "out").iterdir())


def test_fewer_formats_after_a_process_died_twice(tmp_path):
    def die_thrice(number):
        if number == 3 and sum(n == 3 for n, _ in worker.log) <= 3:
            os._exit(5)

    worker = Recorder(tmp_path, die_thrice)
    found = {o.number: o for o in in_parallel(worker, 2)(tasks_of(tmp_path, (1, 2, 3, 4)))}
    assert found[3].status == "complete" and found[3].formats == ("gaussian_4",)
    assert found[3].out_of_memory == (
        "everything, alone: its process ended with exit code 5",
        "gaussian, alone: its process ended with exit code 5",
    )
    assert [found[n].out_of_memory for n in (1, 2, 4)] == [(), (), ()]


def test_object_fails_if_its_process_always_dies(tmp_path):
    def die(number):
        if number == 3:
            os._exit(5)

    outcomes = list(in_parallel(Recorder(tmp_path, die), 2)(tasks_of(tmp_path, (1, 2, 3, 4))))
    found = {outcome.number: outcome for outcome in outcomes}
    assert [found[n].status for n in (1, 2, 3, 4)] == ["complete", "complete", "failed", "complete"]
    assert found[3].message.count("exit code 5") == 3


def test_a_full_disk_ends_the_run(tmp_path):
    def full(number):
        raise OutputError("no space left: free some space")

    with pytest.raises(OutputError, match="free some space"):
        list(in_parallel(Recorder(tmp_path, full), 2)(tasks_of(tmp_path, (1, 2))))


def test_errors_of_preparation_are_logged(tmp_path, caplog, monkeypatch):
    caplog.set_level("DEBUG", "fast_sam3d")
    monkeypatch.setattr(ObjectWorker, "_share", lambda self, task: [][task.number])
    (task,) = tasks_of(tmp_path, (7,))
    ObjectWorker.prepare(object.__new__(ObjectWorker), task)
    assert "object 7" in caplog.text and "IndexError" in caplog.text


class Pipe:
    def __init__(self, device):
        self.device = torch.device(device)


@pytest.mark.parametrize(
    ("device", "objects", "asked", "count"),
    [
        ("cpu", 8, None, 3), ("cpu", 2, None, 2), ("cpu", 8, 5, 5), ("cpu", 8, 1, 1), ("cpu", 1, None, 1),
        ("cpu", 1, 4, 1), ("cuda", 8, 4, 1),
    ],
)  # fmt: skip
def test_number_of_processes(monkeypatch, caplog, device, objects, asked, count):
    caplog.set_level("INFO", "fast_sam3d")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert processes_for(Pipe(device), objects, asked) == count
    assert ("one after another" in caplog.text) == (asked is not None and asked > 1 and count == 1)


@pytest.mark.parametrize("asked", [None, 1, 2])
def test_a_pipeline_that_moves_its_weights_has_one_process(monkeypatch, caplog, asked):
    caplog.set_level("INFO", "fast_sam3d")
    monkeypatch.setattr(engines, "residency_of", lambda pipeline: "moved")
    assert processes_for(Pipe("cpu"), 8, asked) == 1
    assert ("its own copy of the weights" in caplog.text) == (asked == 2)


def test_without_fork_objects_run_in_one_process(monkeypatch):
    monkeypatch.setattr(engines, "can_fork", lambda: False)
    assert processes_for(Pipe("cpu"), 8, 4) == 1
