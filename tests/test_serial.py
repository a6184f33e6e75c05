"""Runs of several threads: each gets what it gets alone."""

import copy
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fast_sam3d import accelerate, run_object, run_scene, serial
from fast_sam3d.run.object import RunSettings
from fast_sam3d.serial import one_at_a_time
from tests.beds import differing, tensors
from tests.minis import picture, random_mini

IMAGE, MASK = picture()
OBJECTS = [(IMAGE, MASK), (IMAGE[:, ::-1].copy(), np.roll(MASK, 9, axis=1))]
FORMATS = ("gaussian",)


def object_run(pipeline, number, progress=None):
    settings = RunSettings(seed=number, ss_steps=3 + number, slat_steps=3, formats=FORMATS, refine_pose=False)
    return tensors(run_object(pipeline, *OBJECTS[number], settings=settings, progress=progress).result)


def bare_run(pipeline, number):
    image, mask = OBJECTS[number]
    alpha = np.dstack([image, mask.astype(np.uint8) * 255])
    steps = {"stage1_inference_steps": 3 + number, "stage2_inference_steps": 3}
    return tensors(pipeline.run(alpha, None, seed=number, decode_formats=list(FORMATS), **steps))


def at_once(*calls):
    """The values of calls that begin at once, each in its own thread."""
    start = threading.Barrier(len(calls))

    def call(work):
        start.wait(10)
        return work()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


@pytest.mark.parametrize("shared", [True, False], ids=["one pipeline", "two pipelines"])
@pytest.mark.parametrize("run", [object_run, bare_run])
@pytest.mark.parametrize("preset", [None, "fast_sam3d"])
def test_two_threads_get_what_they_get_alone(shared, run, preset):
    first = random_mini(0)
    pipelines = [first, first if shared else random_mini(1)]
    if preset is not None:
        for pipeline in pipelines:
            accelerate(pipeline, preset=preset)
    alone = [run(pipeline, number) for number, pipeline in enumerate(pipelines)]
    together = at_once(*(lambda n=n, p=p: run(p, n) for n, p in enumerate(pipelines)))
    assert [differing(*pair) for pair in zip(alone, together, strict=True)] == [set(), set()]


def test_two_scenes_at_once_on_one_pipeline_equal_single_ones():
    pipeline = random_mini()
    masks = [MASK, np.roll(MASK, 7, axis=1), np.roll(MASK, -7, axis=1)]

    def scene(seed):
        options = {"ss_steps": 3, "slat_steps": 2, "formats": FORMATS, "batch": 2, "layout": False}
        return [tensors(item.result) for item in run_scene(pipeline, IMAGE, masks, seed=seed, **options)]

    alone = [scene(0), scene(1)]
    together = at_once(lambda: scene(0), lambda: scene(1))
    assert not any(differing(*pair) for a, b in zip(alone, together, strict=True) for pair in zip(a, b, strict=True))
    assert not pipeline.solved_ahead


@pytest.mark.parametrize("change", ["remove", "replace"])
def test_a_change_of_the_acceleration_waits_for_the_run_of_another_thread(change, caplog):
    pipeline = random_mini()
    handle = accelerate(pipeline, preset="fast_sam3d")
    alone = object_run(pipeline, 0)
    events, threads = [], []

    def work():
        if change == "remove":
            handle.remove()
        else:
            accelerate(pipeline, preset="fast")
        events.append("change")

    def progress(stage, done, total):
        events.append(stage)
        if not threads:
            threads.append(threading.Thread(target=work))
            threads[0].start()
            threads[0].join(0.2)

    caplog.set_level("INFO")
    result = object_run(pipeline, 0, progress)
    threads[0].join(10)
    assert len(events) > 2 and events.index("change") == len(events) - 1 and not differing(alone, result)
    assert not handle.active and "waiting for the end of its run" in caplog.text


def test_the_thread_of_a_run_may_change_the_acceleration_at_once():
    pipeline = random_mini()
    handle = accelerate(pipeline, preset="fast_sam3d")
    active = []

    def progress(stage, done, total):
        handle.remove()
        active.append(handle.active)

    object_run(pipeline, 0, progress)
    assert set(active) == {False}


def test_a_failed_run_lets_the_next_thread_in():
    pipeline = random_mini()
    alone = object_run(pipeline, 0)

    def fail(stage, done, total):
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        object_run(pipeline, 0, fail)
    (again,) = at_once(lambda: object_run(pipeline, 0))
    assert not differing(alone, again)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_ends_the_wait_and_leaves_the_other_run_alone():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_at_a_time():
            inside.set()
            return leave.wait(10)

    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(other)
        assert inside.wait(10)
        pool.submit(lambda: leave.wait(0.2) or signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), one_at_a_time():
            pass
        leave.set()
        assert run.result()

    def enter():
        with one_at_a_time():
            return "in"

    assert at_once(enter) == ["in"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_at_a_time():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        with one_at_a_time():
            os._exit(7)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert serial._holder is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pipeline: pickle.loads(pickle.dumps(pipeline))])
def test_an_accelerated_pipeline_can_be_copied_and_runs_beside_its_copy(duplicate):
    pipeline = random_mini()
    accelerate(pipeline, preset="fast_sam3d")
    alone = object_run(pipeline, 1)
    twin = duplicate(pipeline)
    results = at_once(lambda: object_run(pipeline, 1), lambda: object_run(twin, 1))
    assert [differing(alone, result) for result in results] == [set(), set()]
