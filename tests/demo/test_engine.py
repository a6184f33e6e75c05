"""The engine: jobs one at a time, with events, results, a comparison, and a cancel that works."""

from __future__ import annotations

import errno
import re
import shlex
import sys
import threading
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fast_sam3d.cli import main
from fast_sam3d.demo import engine as engines
from fast_sam3d.demo import folders, object_job
from fast_sam3d.demo.engine import Engine
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.job import JobFailed
from fast_sam3d.demo.texts import progress
from fast_sam3d.errors import CheckpointError, ConfigError, FastSam3dError, InputError, OutputError
from tests.demo.conftest import MINI

WAIT = 120


def folders_of(engine):
    return sorted(path.name for path in engine.folders.root.iterdir())


def test_a_job_has_files_events_and_a_command_that_repeats_it(engine, teapot, quick, tmp_path, monkeypatch):
    job = engine.submit(teapot, quick)
    events = list(job.events(WAIT))
    results = job.wait()
    assert events[-1].kind == job.status == "done"
    rows = {row.stage: row for row in job.rows}
    assert rows["ss"].done == rows["ss"].total == 8 and rows["slat"].done == 5
    assert rows["ss"].skipped > 0 and all(row.finished for row in job.rows)
    assert {row.part for row in job.rows} == {"accelerated"}
    assert (events[-1].calls, events[-1].saved) == (results.calls, results.saved) and results.saved > 0
    assert set(results.view) == {"mesh", "splats"} and results.pose["object_to_camera"]
    with zipfile.ZipFile(results.archive()) as zipped:
        assert {"teapot/command.txt", "teapot/input/teapot/0.png", "teapot/result/pose.json"} <= set(zipped.namelist())
        zipped.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / "teapot")  # the example is found from any folder
    assert main([*shlex.split(results.command)[1:], "--output_dir", str(tmp_path / "again")]) == 0
    for name in ("mesh.glb", "gaussians.ply", "pose.json"):
        again = (tmp_path / "again" / "teapot_0" / name).read_bytes()
        assert again == (results.folder / "result" / name).read_bytes(), name


def test_a_comparison_runs_the_baseline_too(engine, teapot, quick):
    job = engine.submit(teapot, replace(quick, compare=True))
    found = job.wait(WAIT).comparison
    assert found.calls["baseline"] > found.calls["accelerated"] and found.speedup > 0
    assert 0 < found.drift["voxel_iou"] <= 1 and found.view["mesh"].is_file()
    parts = [row.part for row in job.rows]
    assert parts == sorted(parts, key=["accelerated", "baseline"].index) and parts[-1] == "baseline"


def test_unaccelerated_jobs_predict_no_step(engine, teapot, quick):
    own = replace(teapot, name="my Löwe", source=None, notices=("a notice",))
    job = engine.submit(own, replace(quick, preset="off", compare=True))
    results = job.wait(WAIT)
    assert results.saved == 0 and not any(row.skipped for row in job.rows) and results.comparison is None
    assert "a notice" in results.notices and results.report["notices"] == [*results.notices]
    assert shlex.split(results.command)[2:4] == ["--image_path", "input/my_Löwe"]
    assert (results.folder / "input/my_Löwe/image.png").is_file()


def test_files_that_no_viewer_shows_have_plain_ones_beside_them(engine, teapot, quick):
    job = engine.submit(teapot, replace(quick, formats=("stl", "spz")))
    kinds = [event.kind for event in job.events(WAIT)]
    results = job.wait()
    assert kinds.count("viewable") == 2
    assert {path.name for path in results.files} >= {"mesh.stl", "gaussians.spz"}
    assert results.view["mesh"].name == "mesh.glb" and results.view["mesh"].parent.name == "view"
    with zipfile.ZipFile(results.archive()) as zipped:
        assert not any("/view/" in name for name in zipped.namelist())


def test_a_scene_is_composed_of_its_objects(engine, quick):
    scene = JobInput.load("examples/scene", 1)
    first = JobInput.load("examples/scene", 0)
    both = JobInput(scene.image, (first.masks[0], scene.masks[0]), "two", scene.pointmap)
    job = engine.submit(both, quick, scene=True)
    kinds = [event.kind for event in job.events(WAIT)]
    results = job.wait()
    assert kinds.count("object") == 2 and results.report["complete"] == 2
    assert {"mesh", "splats"} <= set(results.view) and len(results.pose["objects"]) == 2
    assert {row.part for row in job.rows} >= {"object 0", "object 1", "scene"}
    assert results.command.startswith("fast-sam3d scene --image_path input/two ")


def test_jobs_wait_for_their_turn_and_know_their_place(engine, teapot, quick):
    jobs = [engine.submit(teapot, replace(quick, seed=seed)) for seed in range(2)]
    assert jobs[1].last.place == 1 and set(engine.queue) <= {job.id for job in jobs}
    for job in jobs:
        job.wait(WAIT)
    ends = [max(event.seconds + job._began for event in job._events) for job in jobs]
    assert ends == sorted(ends) and jobs[1].last.place == 0
    assert len({tuple(job.results.pose["translation"]) for job in jobs}) == 2


def test_cancel_ends_a_run_at_its_next_step_and_leaves_no_files(engine, teapot, quick):
    before = set(folders_of(engine))
    job = engine.submit(teapot, quick)
    for event in job.events(WAIT):
        if event.row is not None and event.row.stage == "ss" and event.row.done == 1:
            job.cancel()
    assert job.status == "cancelled" and "slat" not in {row.stage for row in job.rows}
    assert next(row for row in job.rows if row.stage == "ss").done <= 2
    assert set(folders_of(engine)) <= before
    with pytest.raises(JobFailed, match="cancelled"):
        job.wait()
    assert engine.submit(teapot, quick).wait(WAIT).calls  # the pipeline is as before


def test_what_a_job_spent_adds_up_to_its_seconds(engine, teapot, quick):
    job = engine.submit(teapot, replace(quick, faces=2000))
    job.wait(WAIT)
    said = progress(job)
    total, *parts = (float(number) for number in re.findall(r"([\d.]+) s\b", said.split("network")[0]))
    assert "reconstruction" in said and "faces and texture" in said
    assert sum(parts) == pytest.approx(total, abs=0.05 * (len(parts) + 1))


def test_cancel_while_files_are_written(engine, teapot, quick):
    before = set(folders_of(engine))
    job = engine.submit(teapot, replace(quick, faces=2000))
    for event in job.events(WAIT):
        if event.row is not None and event.row.stage == "export":
            assert job.view["mesh"].is_file()
            job.cancel()
    assert job.status == "cancelled" and not job.view and set(folders_of(engine)) <= before


def test_a_waiting_job_is_cancelled_at_once(engine, teapot, quick):
    first, second, third = (engine.submit(teapot, quick) for _ in range(3))
    second.cancel()
    second.cancel()
    assert second.status == "cancelled"
    assert third.last.place <= 1
    third.cancel()
    first.wait(WAIT)


def test_cancel_while_the_model_loads(engine, monkeypatch, teapot, quick):
    release, pipeline = threading.Event(), engine._model.pipeline
    monkeypatch.setattr(engines, "load_checkpoint", lambda *args: (release.wait(WAIT), pipeline)[1])
    with Engine(MINI) as slow:
        job, other = slow.submit(teapot, quick), slow.submit(teapot, quick)
        assert job.status == "loading" and slow.state == "loading"
        job.cancel()
        assert job.status == "cancelled" and other.status == "loading"
        release.set()
        assert other.wait(WAIT).calls


def test_a_model_that_does_not_load_is_tried_again(engine, monkeypatch, teapot, quick):
    tries, pipeline = [], engine._model.pipeline

    def load(*args):
        tries.append(args)
        if len(tries) == 1:
            raise CheckpointError("the weights are damaged: download them again")
        return pipeline

    monkeypatch.setattr(engines, "load_checkpoint", load)
    with Engine(MINI) as found:
        assert not found.wait_until_loaded(WAIT) and found.problem.startswith("the weights are damaged")
        assert found.submit(teapot, quick).wait(WAIT).calls


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory: close other programs"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device.*: free some space"),
        (ZeroDivisionError("surprise"), "ZeroDivisionError: surprise"),
        (OutputError("the disk is full: free some space"), "the disk is full"),
    ],
)
def test_a_failing_job_says_why_and_the_next_one_runs(engine, teapot, quick, monkeypatch, error, said):
    with monkeypatch.context() as patch:

        def fail(*args, **kwargs):
            raise error

        patch.setattr(object_job, "run_to_folder", fail)
        job = engine.submit(teapot, quick)
        with pytest.raises(JobFailed, match=said):
            job.wait(WAIT)
    assert job.status == "failed" and not any(job.id in name for name in folders_of(engine))
    other = engine.submit(teapot, quick)
    other.cancel()
    assert list(other.events(WAIT))[-1].kind == "cancelled"


def test_no_space_is_refused_before_the_run(engine, teapot, quick, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    job = engine.submit(teapot, quick)
    with pytest.raises(JobFailed, match="no space for results"):
        job.wait(WAIT)
    assert not job.rows


def test_a_missing_package_is_named_at_once(engine, teapot, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "gaussforge", None)
    with pytest.raises(FastSam3dError, match=r"fast-sam3d\[export\]"):
        engine.submit(teapot, replace(quick, formats=("spz",)))


def test_wrong_requests_are_refused_at_once(engine, teapot, quick):
    with pytest.raises(ConfigError):
        engine.submit(teapot, replace(quick, preset="quick"))
    with pytest.raises(ConfigError):
        engine.submit(teapot, replace(quick, overrides=("ss=fast_sam3d", "ss.when.stride=0")))
    with pytest.raises(InputError, match="2 masks"):
        engine.submit(replace(teapot, masks=(*teapot.masks, ~np.asarray(teapot.masks[0]))), quick)


def test_a_full_queue_is_refused(engine, teapot, quick, monkeypatch):
    monkeypatch.setattr(engines, "MOST_WAITING", 2)
    jobs = [engine.submit(teapot, quick) for _ in range(2)]
    with pytest.raises(FastSam3dError, match="try again later"):
        for _ in range(2):
            jobs.append(engine.submit(teapot, quick))
    for job in reversed(jobs):
        job.cancel()
    for job in jobs:
        list(job.events(WAIT))


def test_an_engine_that_ends_cancels_its_jobs_and_removes_its_folder(teapot, quick):
    with Engine(MINI) as engine:
        jobs = [engine.submit(teapot, quick) for _ in range(2)]
        root = engine.folders.root
        assert root.is_dir()
    assert {job.status for job in jobs} == {"cancelled"} and not root.exists()
    with pytest.raises(FastSam3dError, match="has ended"):
        engine.submit(teapot, quick)
    engine.close()


def test_an_unknown_checkpoint_is_refused_at_the_start():
    with pytest.raises(CheckpointError):
        Engine({"pipeline.tag": "no-such-tag"})
