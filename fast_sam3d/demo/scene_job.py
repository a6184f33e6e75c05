"""A job with several objects of one picture: the same files as `fast-sam3d scene` writes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fast_sam3d.config.compose import Config
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.job import Job, Results
from fast_sam3d.demo.object_job import Model, found_view
from fast_sam3d.demo.settings import SAVED_AXES, command_line, configuration
from fast_sam3d.documents import read_json
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.notices import checkpoint_notices
from fast_sam3d.run.object import Known
from fast_sam3d.run.own_process import in_own_process
from fast_sam3d.scene.compose import SCENE_JSON, SUMMARY
from fast_sam3d.scene.folder import run_folder, scene_lock
from fast_sam3d.scene.inputs import load_scene
from fast_sam3d.scene.plan import plan_scene
from fast_sam3d.scene.staged import in_groups
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker, config_identity

__all__ = ["run_scene_job"]


def run_scene_job(job: Job, given: JobInput, model: Model, folder: Path) -> Results:
    """Run every object, compose the scene, and write the files.

    Args:
        folder: of the job; exists, and is removed by the caller if this does not return.

    Raises:
        FastSam3dError: not one object could be reconstructed.
    """
    from fast_sam3d.report import observe

    watch, settings = job.watch, job.settings
    saved = folder / "input" / given.folder_name
    given.save(saved)
    values = {**model.values, "input.pointmap_axes": SAVED_AXES}
    config = configuration(settings, saved, values, model.overrides)
    source = given.source or Path("input") / given.folder_name
    command = command_line(settings, given, source, None, model.values, model.overrides)
    scene, target = load_scene(saved, config.input), folder / "result"
    known: dict[int, ObjectOutcome] = {}

    def show(outcome: ObjectOutcome) -> None:
        known[outcome.number] = outcome
        job.say("object", f"object {outcome.number}: {outcome.message or outcome.status}")

    begin = time.perf_counter()
    with scene_lock(target), _worker(model, config) as worker, observe(model.pipeline, watch) as report:
        watch.report = report
        worker.progress = watch.outside
        worker.call = functools.partial(in_own_process, watch.check)
        worker.know(scene, config.input)
        plan = plan_scene(scene, config, config_identity(config, model.checkpoint), target, overwrite=False)

        def engine(tasks: Iterable[ObjectTask]) -> Iterator[ObjectOutcome]:
            yield from in_groups(model.pipeline, list(tasks), config.scene.batch, one)
            watch.part = "scene"
            watch("compose", 0, 1)

        def one(task: ObjectTask, known: Known | None) -> ObjectOutcome:
            watch.part = f"object {task.number}"
            watch.check()
            return worker.process(task, known=known)

        summary = run_folder(plan, config, engine, show)
        watch("compose", 1, 1)
    if not summary["complete"]:
        raise FastSam3dError("; ".join(outcome.message for outcome in known.values()) or "there is no object")
    view = found_view(target)
    job.show(view)
    files = [target / name for name in (*summary["files"], SCENE_JSON, SUMMARY)]
    (folder / "command.txt").write_text(command + "\n", encoding="utf-8")
    return Results(
        folder, tuple(files), view, summary, read_json(target / SCENE_JSON),
        time.perf_counter() - begin, report.network_calls, report.network_calls_saved, command,
        tuple(summary.get("notices", ())),
    )  # fmt: skip


def _worker(model: Model, config: Config) -> ObjectWorker:
    checkpoint = model.checkpoint
    return ObjectWorker(
        model.pipeline, config, checkpoint.tag, model.load_seconds, checkpoint.kind == "mini",
        checkpoint_notices(checkpoint),
    )  # fmt: skip
