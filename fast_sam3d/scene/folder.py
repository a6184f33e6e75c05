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
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.parallel import Engine
from fast_sam3d.scene.plan import ScenePlan, count_as_missing
from fast_sam3d.scene.worker import ObjectOutcome

__all__ = ["LOCK", "run_folder", "scene_lock"]

log = logging.getLogger(__name__)

LOCK = ".fast_sam3d.lock"
LOCK_TRIES = 40  # in two seconds


@contextlib.contextmanager
def scene_lock(target: Path) -> Iterator[None]:
    """Keep a second run out of a scene's folder, and remove unfinished files of a killed one.

    The system releases the lock when its holder dies. Where there are no such locks (Windows, some network drives) a
    second run is not detected.

    Raises:
        OutputError: another run has the folder, or it cannot be written.
    """
    made = [path for path in (target, *target.absolute().parents) if not path.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = open(target / LOCK, "a")  # noqa: SIM115 (held for the length of the block)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}): choose another --output_dir") from error
    with lock:
        try:
            _wait_for(lock)
            if os.fstat(lock.fileno()).st_nlink == 0:  # removed by its last holder
                raise BlockingIOError
        except BlockingIOError as error:
            raise OutputError(
                f"another run is writing into {target}: wait for its end, or choose another --output_dir"
            ) from error
        except (ImportError, OSError):
            log.debug("%s cannot be locked", target)
        try:
            clear_unfinished(target)
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove open files
                (target / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: there are results
                for path in made:
                    path.rmdir()


def _wait_for(lock: IO[str]) -> None:
    """Take the lock. The forks of a killed run hold it until they end, a moment later."""
    import fcntl

    for _ in range(LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    raise BlockingIOError


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
