"""A scene from its folder to a folder of results; an interrupted run resumes.

    OUT/kitchen/0, 2, 11 ...    one folder per mask, as `infer` writes it, with a done.json; what the scene is composed
                                from is in .parts there, if such files are not asked for
    OUT/kitchen/scene.ply, scene.glb, scene.json, preview.png, turntable.gif, summary.json

An object's folder appears when it is complete. Its done.json identifies its inputs, by digests of the pixels, and the
settings. Complete objects of the same identity are not run again. The scene is composed from the objects' files, never
from memory, so that an interrupted scene ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.outputs.locks import run_lock
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.parallel import Engine
from fast_sam3d.scene.plan import ScenePlan, count_as_missing
from fast_sam3d.scene.worker import ObjectOutcome

__all__ = ["LOCK", "run_folder", "scene_lock"]

LOCK = ".fast_sam3d.lock"


@contextlib.contextmanager
def scene_lock(target: Path) -> Iterator[None]:
    """Keep a second run out of a scene's folder, see `run_lock`, and remove unfinished files of a killed one.

    Raises:
        OutputError: another run has the folder, or it cannot be written.
    """
    with run_lock(target, target / LOCK):
        clear_unfinished(target)
        yield


def run_folder(
    planned: ScenePlan,
    config: Config,
    engine: Engine,
    report: Callable[[ObjectOutcome], None] = lambda outcome: None,
    processes: Callable[[], int] = lambda: 1,
) -> dict[str, Any]:
    """Run the tasks of a plan and compose the scene. Returns the summary.

    Args:
        engine: receives the tasks, if there are any.
        report: called with every outcome when it is known, those of earlier runs first.
        processes: called after the objects; the number of processes that compose the scene.

    Raises:
        OutputError: the folder cannot be written, or was removed or replaced in the meantime.
    """
    outcomes = dict(planned.known)
    for outcome in planned.known.values():
        report(outcome)
    count_as_missing(planned.tasks)
    if planned.tasks:
        for outcome in engine(planned.tasks):
            outcomes[outcome.number] = outcome
            report(outcome)
    return finish(planned, outcomes, config, processes())
