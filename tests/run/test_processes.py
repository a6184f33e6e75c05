"""Work in forked processes."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run import processes as forks
from fast_sam3d.run.processes import Lost, can_fork, in_forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")


def test_every_item_is_processed_once_without_pickling():
    weights = torch.arange(6.0)
    items = [lambda i=i: float(weights[i]) for i in range(6)]  # neither can be pickled
    assert dict(in_forks(lambda item: item(), items, 3)) == {i: float(i) for i in range(6)}
    assert list(in_forks(lambda item: item, [], 3)) == []


@pytest.mark.parametrize(("processes", "most"), [(1, 1), (2, 2), (9, 4)])
def test_no_more_processes_than_asked_for_or_items(processes, most):
    pids = set(dict(in_forks(lambda item: os.getpid(), range(4), processes)).values())
    assert 1 <= len(pids) <= most and os.getpid() not in pids


def test_results_come_in_order_of_completion(tmp_path):
    order = []
    for index, _ in in_forks(lambda item: item or wait_for((tmp_path / "go").exists), [0, 1, 2], 2):
        order.append(index)
        if len(order) == 2:
            (tmp_path / "go").touch()
    assert order == [1, 2, 0]


def test_forks_compute_with_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        a = torch.rand(512, 512)
        expected = (a @ a).sum().item()  # starts the pools of OpenMP and BLAS here
        assert float((np.ones((600, 600)) @ np.ones((600, 600))).sum()) == 600.0**3

        def work(_):
            b = np.ones((600, 600))
            return torch.get_num_threads(), (a @ a).sum().item(), float((b @ b).sum())

        for threads, total, other in dict(in_forks(work, range(4), 2)).values():
            assert threads == 1
            assert total == pytest.approx(expected, rel=1e-5)
            assert other == 600.0**3
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_an_error_is_raised_in_the_parent_and_the_others_clean_up(tmp_path):
    def work(item):
        if item == 0:
            wait_for((tmp_path / "begun").exists)
            raise ValueError("item 0")
        try:
            (tmp_path / "begun").touch()
            wait_for_ever()
        finally:
            (tmp_path / "cleared").touch()

    with pytest.raises(ValueError, match="item 0"):
        list(in_forks(work, [0, 1], 2))
    assert (tmp_path / "cleared").exists()


class Odd(Exception):
    """It can be pickled, but not unpickled from its one argument."""

    def __init__(self, number, place):
        super().__init__(f"{number} of {place}")


def test_an_error_that_cannot_be_pickled_becomes_a_runtime_error():
    def odd(item):
        raise Odd(3, "kitchen")

    def local(item):
        class Local(Exception):
            pass

        raise Local(torch.arange(3))

    for work, text in ((odd, "Odd: 3 of kitchen"), (local, r"Local: tensor\(\[0, 1, 2\]\)")):
        with pytest.raises(RuntimeError, match=text):
            list(in_forks(work, [0], 1))
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        list(in_forks(lambda item: lambda: item, [0], 1))


def test_traceback_of_the_fork_is_included():
    def somewhere_deep(item):
        return [][item]

    with pytest.raises(IndexError) as caught:
        list(in_forks(somewhere_deep, [0], 1))
    assert "somewhere_deep" in str(caught.value.__cause__)


def test_closing_the_generator_ends_its_processes(tmp_path):
    def work(item):
        (tmp_path / str(os.getpid())).touch()
        if item:
            wait_for_ever()

    answers = in_forks(work, [0, 1], 2)
    next(answers)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    answers.close()
    assert all(not running(int(path.name)) for path in tmp_path.iterdir())


def test_a_dead_process_is_reported_and_replaced():
    def work(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    answers = dict(in_forks(work, range(6), 1))
    assert answers == {0: 0, 1: Lost(-9), 2: 2, 3: 3, 4: 4, 5: 5}
    assert str(answers[1]) == "signal 9" and str(Lost(3)) == "exit code 3"


@pytest.mark.parametrize(("number", "answer"), [(signal.SIGINT, "done"), (signal.SIGTERM, Lost(143))])
def test_signal_before_a_process_installs_its_handler(monkeypatch, capfd, number, answer):
    follow = forks.follow_parent
    monkeypatch.setattr(forks, "follow_parent", lambda: (os.kill(os.getpid(), number), follow()))
    assert list(in_forks(lambda item: item, ["done"], 1)) == [(0, answer)]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_fork_is_not_lost(number):
    program = f"""
import os, signal, threading
from fast_sam3d.run.processes import in_forks
class Stop(BaseException): pass
def stop(number, frame): raise Stop
signal.signal({int(number)}, stop)
threading.Thread(target=threading.Event().wait, daemon=True).start()  # a thread that takes what the first does not
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), {int(number)}))
try: list(in_forks(lambda item: item, [0], 1))
except Stop: print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_fewer_processes_where_the_system_refuses_to_fork(monkeypatch):
    fork, given = os.fork, []

    def scarce():
        if len(given) == most:
            raise BlockingIOError(errno.EAGAIN, "no more")
        given.append(True)
        return fork()

    monkeypatch.setattr(os, "fork", scarce)
    most = 1
    assert dict(in_forks(lambda item: item, range(4), 3)) == {i: i for i in range(4)}
    with pytest.raises(FastSam3dError, match=r"no more.*--workers 1"):
        list(in_forks(lambda item: item, range(4), 3))


def test_no_warning_about_threads_of_the_parent(monkeypatch):
    fork = os.fork

    def as_in_python_3_12():
        warnings.warn("This process is multi-threaded, use of fork() may lead to deadlocks", DeprecationWarning, 2)
        return fork()

    monkeypatch.setattr(os, "fork", as_in_python_3_12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(in_forks(lambda item: item, [0], 1)) == [(0, 0)]


def test_out_of_memory_killer_prefers_forks():
    score = Path("/proc/self/oom_score_adj")
    ((_, score_in_fork),) = in_forks(lambda item: int(score.read_text()), [0], 1)
    assert score_in_fork == min(int(score.read_text()) + 500, 1000)


def test_no_file_stays_open():
    list(in_forks(lambda item: item, [0], 1))
    gc.collect()  # files of earlier tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        list(in_forks(lambda item: os._exit(1) if item == 1 else item, range(4), 2))
    assert len(os.listdir("/proc/self/fd")) <= before and not multiprocessing.active_children()


def test_forks_end_with_a_killed_parent(tmp_path):
    program = f"""
import os, threading
from pathlib import Path
from fast_sam3d.run.processes import in_forks
def work(item):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    threading.Event().wait()
list(in_forks(work, [0, 1], 2))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.kill()
        parent.wait()
        pids = [int(path.name) for path in tmp_path.iterdir()]
        wait_for(lambda: not any(running(pid) for pid in pids))
    finally:
        parent.kill()


def test_no_forks_with_cuda_within_a_fork_or_off_linux(monkeypatch):
    assert can_fork()
    assert next(in_forks(lambda _: can_fork(), [0], 1)) == (0, False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        assert not can_fork()
    monkeypatch.setattr(forks.sys, "platform", "darwin")
    assert not can_fork()


def wait_for(done) -> None:
    """A hang ends with the time limit of the test."""
    while not done():
        time.sleep(0.02)


def wait_for_ever() -> None:
    threading.Event().wait()


def running(pid: int) -> bool:
    """Running, and not a zombie that its new parent has not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
