"""`fast-sam3d scene --engine ray`: the same folders, files and messages, by the workers of a Ray cluster."""

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
    """Process all scenes. Returns the exit code.

    Args:
        single: the only folder was named itself, so its errors are raised instead of listed in the table.
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
                        if job.error is not None and single:
                            raise job.error
                        code = max(code, _print(job, rows[job.folder]))
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"the finished objects in {config.output.dir} are kept, and the same command resumes with the others"
            ) from error
    return code if single else end_all(list(rows.values()), config)


def _objects(folder: Path) -> int:
    try:
        return len(numbered_masks(folder))
    except OSError:
        return 0  # reported when it is read


def _print(job: SceneJob, row: dict[str, Any]) -> int:
    """Print the result of a scene and note it in its row. Returns the exit code of a single scene."""
    if job.summary is None:
        assert job.error is not None
        note_failure(row, job.folder, job.error)
        return SOME_FAILED
    print_scene(job.summary, job.outcomes, job.target)
    note_summary(row, job.summary)
    return SOME_FAILED if job.summary["failed"] else 0
