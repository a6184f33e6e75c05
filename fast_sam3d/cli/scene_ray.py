"""`fast-sam3d scene --engine ray`: the same folders, files and messages, made by many workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli.scene_summary import SOME_FAILED, end_all, new_row, note_failure, note_summary, print_scene
from fast_sam3d.cluster.connect import import_ray
from fast_sam3d.cluster.engine import ClusterEngine
from fast_sam3d.cluster.job import SceneJob
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError, OutputError
from fast_sam3d.inputs.load import numbered_masks
from fast_sam3d.run.progress import ObjectsProgress
from fast_sam3d.scene.inputs import load_scene
from fast_sam3d.scene.worker import config_identity

__all__ = ["run_on_cluster"]


def run_on_cluster(
    folders: list[Path],
    single: bool,
    config: Config,
    checkpoint: Checkpoint,
    given: Mapping[str, Any],
    overwrite: bool,
) -> int:
    """Runs all scenes. Returns the exit code.

    Args:
        single: the one folder was named itself, so what is wrong with it is an error and no row of a table.
        given: flags of the cluster.
    """
    settings = ClusterSettings(**{name.removeprefix("ray_"): value for name, value in given.items()})
    import_ray()
    identity = config_identity(config, checkpoint)
    rows = {folder: new_row(folder) for folder in folders}

    def jobs() -> Iterator[SceneJob]:
        taken: set[str] = set()
        for folder in folders:
            try:
                scene = load_scene(folder, config.input.pointmap)
                if scene.name in taken:
                    raise OutputError(f"{folder} and another scene would both go to {scene.name}: rename one of them")
                taken.add(scene.name)
                rows[folder]["scene"] = scene.name
                job = SceneJob.open(scene, config, identity, config.output.dir / scene.name, overwrite)
            except FastSam3dError as error:
                if single:
                    raise
                note_failure(rows[folder], folder, error)
                continue
            yield job

    code = 0
    with ObjectsProgress(sum(map(_objects, folders))) as progress:
        engine = ClusterEngine(config, checkpoint, identity, settings, progress, Path.cwd())
        try:
            with contextlib.closing(engine.run(jobs())) as done:
                for job in done:
                    with contextlib.closing(job):
                        code = max(code, _told(job, rows[job.folder], single))
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"the finished objects in {config.output.dir} are kept, and the same command resumes with the others"
            ) from error
    return code if single else end_all(list(rows.values()), config)


def _objects(folder: Path) -> int:
    try:
        return len(numbered_masks(folder))
    except OSError:
        return 0  # told when its turn comes


def _told(job: SceneJob, row: dict[str, Any], single: bool) -> int:
    """Prints what became of a scene and notes it in its row. Returns the exit code of a single one."""
    if job.summary is None:
        error = job.error or FastSam3dError(f"nothing is known of {job.folder}")
        if single:
            raise error
        note_failure(row, job.folder, error)
        return SOME_FAILED
    print_scene(job.summary, job.outcomes, job.target)
    note_summary(row, job.summary)
    return SOME_FAILED if job.summary["failed"] else 0
