"""`fast-sam3d scene`: reconstructs every masked object of a picture, one after another, then composes the scene."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint
from fast_sam3d.cli.arguments import ANY, PROCESSES
from fast_sam3d.cli.configuration import config_from, log_acceleration
from fast_sam3d.cli.flags import add_config_flags, add_overwrite
from fast_sam3d.cli.scene_summary import Scenes
from fast_sam3d.config.compose import Config, check_methods
from fast_sam3d.errors import ConfigError, FastSam3dError, InputError
from fast_sam3d.inputs.labels import is_annotation
from fast_sam3d.outputs.folder import check_target
from fast_sam3d.outputs.interrupts import on_interrupt
from fast_sam3d.run.export import check_exports
from fast_sam3d.run.notices import log_checkpoint
from fast_sam3d.run.progress import ObjectsProgress, SceneProgress
from fast_sam3d.scene.folder import run_folder, scene_lock
from fast_sam3d.scene.inputs import SceneInput, scene_folders
from fast_sam3d.scene.parallel import in_parallel, processes_for
from fast_sam3d.scene.plan import plan_scene
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker, config_identity

log = logging.getLogger(__name__)

OVERRIDES = ANY
CLUSTER: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("cpus_per_worker", int, "N", "cores and torch threads per worker (default: 1)"),
    ("gpus_per_worker", float, "SHARE", "GPUs per worker, 1 or a share of one (default: 1 if available, else 0)"),
    ("ray_address", str, "ADDRESS", "a running cluster, host:port or auto (default: RAY_ADDRESS, else none)"),
    ("max_retries", int, "N", "retries of an object whose worker has died (default: 2)"),
)
"""Flags of `--engine ray`, named after the fields of `cluster.settings.ClusterSettings`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, scene=True)
    parser.add_argument("--mask_index", type=int, metavar="N", help="ignored: a scene takes every mask (default: none)")
    add_overwrite(parser, "results, also those of other settings or pictures")
    group = parser.add_argument_group("many workers")
    group.add_argument(
        "--engine", choices=("plain", "ray"), default="plain",
        help="plain: this process and forks of it; ray: worker processes on one or many machines",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=PROCESSES, metavar="N",
        help="objects at once (default: plain: one per core, one on a GPU; ray: as many as fit)",
    )  # fmt: skip
    for name, kind, metavar, text in CLUSTER:
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)


def main(args: argparse.Namespace) -> int:
    if args.mask_index is not None:
        log.warning("--mask_index %d is ignored: a scene takes every mask, and infer takes one", args.mask_index)
        args.mask_index = None
    config = config_from(args)
    if config.input.image_path is None:
        raise InputError("name the scene with --image_path: a folder with image.png and masks, or one of such folders")
    if config.pipeline.model != "sam3d":
        raise ConfigError(
            "a scene needs the pose of each object, and TRELLIS has none: reconstruct objects one by one with infer"
        )
    if config.input.mask_index is not None or config.input.mask_label is not None:
        raise ConfigError("a scene takes every mask: leave input.mask_index and input.mask_label out, or use infer")
    if config.input.marked:
        raise ConfigError("a scene takes every mask: leave input.click, input.background and input.box out")
    folders = scene_folders(config.input.image_path)
    scenes = Scenes(folders, config)
    if not scenes.single and config.input.pointmap not in ("auto", "none"):
        raise ConfigError(
            f"--pointmap names one file for {len(folders)} scenes: save each as pointmap.npz beside its picture"
        )
    if not scenes.single and config.input.mask_path is not None and not is_annotation(config.input.mask_path):
        raise ConfigError(
            f"--mask_path names one file for {len(folders)} scenes: save each as labels.png beside its picture"
        )
    given = {name: value for name, *_ in CLUSTER if (value := getattr(args, name)) is not None}
    if given and args.engine != "ray":
        raise ConfigError(f"--{next(iter(given))} is for a cluster: add --engine ray, or leave it out")
    asked = config.pipeline
    checkpoint = find_checkpoint(asked.tag, asked.device, asked.runtime)
    log_checkpoint(checkpoint)
    check_methods(config)
    check_exports(config.output)
    log_acceleration(config)
    if args.engine == "ray":
        from fast_sam3d.cli.scene_ray import run_on_cluster

        return run_on_cluster(scenes, checkpoint, {"workers": args.workers, **given}, args.overwrite)
    with ExitStack() as stack:
        engine = _PlainEngine(config, checkpoint, args.workers, stack)
        for number, folder in enumerate(folders, 1):
            if not scenes.single:
                log.info("scene %d of %d: %s", number, len(folders), folder)
            try:
                scene = scenes.load(folder)
                target = scenes.target(scene)
                scenes.done(folder, *_run(scene, target, checkpoint, engine, args.overwrite), target)
            except FastSam3dError as error:
                scenes.failed(folder, error)
    return scenes.end()


class _PlainEngine:
    """Runs objects in this process or in forks of it; loads the pipeline at the first object and keeps it."""

    def __init__(self, config: Config, checkpoint: Checkpoint, workers: int | None, stack: ExitStack) -> None:
        self.config, self.checkpoint, self.workers, self.stack = config, checkpoint, workers, stack
        self.scene: SceneInput | None = None
        self.processes = 1
        """Of the last scene."""
        self._worker: ObjectWorker | None = None

    def __call__(self, tasks: Iterable[ObjectTask]) -> Iterator[ObjectOutcome]:
        if self._worker is None:
            self._worker = self.stack.enter_context(ObjectWorker.load(self.config, self.checkpoint))
        worker, tasks = self._worker, list(tasks)
        objects = len(tasks)
        if self.scene is not None:
            objects = len(self.scene.masks)
            worker.know(self.scene, self.config.input)
            self.scene = None  # the worker has it, perhaps reduced
        self.processes = processes_for(worker.pipeline, objects, self.workers)
        progress: ObjectsProgress
        if self.processes > 1:
            progress = ObjectsProgress(len(tasks))
            outcomes = in_parallel(worker, self.processes)(tasks)
        else:
            steps = self.config.pipeline.ss_steps + self.config.pipeline.slat_steps
            progress = worker.progress = SceneProgress(steps, [str(task.number) for task in tasks])
            outcomes = worker.process_all(tasks)
        with progress:
            progress.begin()
            for outcome in outcomes:
                progress.object_done(str(outcome.number), outcome.status)
                yield outcome


def _run(
    scene: SceneInput, target: Path, checkpoint: Checkpoint, engine: _PlainEngine, overwrite: bool
) -> tuple[dict[str, Any], dict[int, ObjectOutcome]]:
    """Reconstructs one scene. Returns its summary and what became of its objects."""
    config = engine.config
    check_target(target / ".fast_sam3d-new", ())  # before any work
    with scene_lock(target):
        whole = plan_scene(scene, config, config_identity(config, checkpoint), target, overwrite)
        kept = [number for number, known in whole.known.items() if known.status == "complete"]
        if kept:
            log.info("%d of %d objects are complete already; --overwrite replaces them", len(kept), len(scene.masks))
        outcomes: dict[int, ObjectOutcome] = {}
        engine.scene = scene

        def show(outcome: ObjectOutcome) -> None:
            outcomes[outcome.number] = outcome
            if outcome.status == "failed":
                log.error("object %d failed: %s", outcome.number, outcome.message)

        resumes = f"the finished objects in {target} are kept, and the same command resumes with the others"
        try:
            with on_interrupt(resumes):
                return run_folder(whole, config, engine, show, lambda: engine.processes), outcomes
        finally:
            engine.scene = None
