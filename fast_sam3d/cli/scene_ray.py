"""`fast-sam3d scene --engine ray`: the same folders, files and messages, by the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli.scene_summary import Scenes
from fast_sam3d.cluster.connect import import_ray
from fast_sam3d.cluster.engine import ClusterEngine
from fast_sam3d.cluster.job import SceneJob
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import FastSam3dError, InputError
from fast_sam3d.inputs.load import find_image
from fast_sam3d.outputs.interrupts import on_interrupt
from fast_sam3d.run.progress import ObjectsProgress
from fast_sam3d.scene.inputs import scene_masks
from fast_sam3d.scene.worker import config_identity


def run_on_cluster(scenes: Scenes, checkpoint: Checkpoint, given: Mapping[str, Any], overwrite: bool) -> int:
    """Process all scenes. Returns the exit code.

    Args:
        given: flags of the cluster.
    """
    settings = ClusterSettings(**{name.removeprefix("ray_"): value for name, value in given.items()})
    import_ray()
    config = scenes.config
    identity = config_identity(config, checkpoint)

    def jobs() -> Iterator[SceneJob]:
        for folder in scenes.rows:
            try:
                scene = scenes.load(folder)
                job = SceneJob.open(scene, config, identity, scenes.target(scene), overwrite)
            except FastSam3dError as error:
                scenes.failed(folder, error)
                continue
            yield job

    with ObjectsProgress(sum(_objects(folder, config.input) for folder in scenes.rows)) as progress:
        engine = ClusterEngine(config, checkpoint, identity, settings, progress, Path.cwd())
        resumes = f"the finished objects in {config.output.dir} are kept, and the same command resumes with the others"
        with on_interrupt(resumes), contextlib.closing(engine.run(jobs())) as done:
            for job in done:
                with contextlib.closing(job):
                    if job.error is not None:
                        scenes.failed(job.folder, job.error)
                    elif job.summary is not None:
                        scenes.done(job.folder, job.summary, job.outcomes, job.target)
    return scenes.end()


def _objects(folder: Path, asked: InputConfig) -> int:
    try:
        return len(scene_masks(folder, find_image(folder), asked, [])[0])
    except (OSError, InputError):
        return 0  # reported when it is read
