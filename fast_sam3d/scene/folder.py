"""A scene from its folder to a folder of results, in a way that can be stopped anywhere and goes on.

    OUT/kitchen/0, 2, 11 ...    one folder per mask, as `infer` writes it, with a done.json
    OUT/kitchen/scene.ply, scene.glb, scene.json, preview.png, turntable.gif, summary.json

An object's folder appears whole. Its done.json holds the identity of what it was made of: digests of the pixels, and
the settings. What is there in its whole and of the same identity is not made again. The composed files are made of the
objects' files, never of what is in memory, so that a scene that was stopped ends with the bytes of one that was not.
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
from fast_sam3d.errors import FastSam3dError, OutputError
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.parallel import Engine
from fast_sam3d.scene.plan import ScenePlan, count_as_missing
from fast_sam3d.scene.worker import ObjectOutcome

__all__ = ["LOCK", "run_folder", "scene_lock"]

log = logging.getLogger(__name__)

LOCK = ".fast_sam3d.lock"
LOCK_SECONDS = 2.0


@contextlib.contextmanager
def scene_lock(target: Path) -> Iterator[None]:
    """Keeps a second run out of a scene's folder, and clears away what a killed one has left there.

    The system gives the lock back when its holder dies, however that happens. Where it knows no such locks (Windows,
    some network drives) nothing is kept out.

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
            if os.fstat(lock.fileno()).st_nlink == 0:  # its last holder has just removed it
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
            with contextlib.suppress(OSError):  # Windows removes no open file
                (target / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: there are results
                for path in made:
                    path.rmdir()


def _wait_for(lock: IO[str]) -> None:
    """Takes the lock. The forks of a run that was killed hold it for the moment that they take to follow."""
    import fcntl

    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def run_folder(
    whole: ScenePlan,
    config: Config,
    engine: Engine,
    tell: Callable[[ObjectOutcome], None] = lambda outcome: None,
    processes: Callable[[], int] = lambda: 1,
) -> dict[str, Any]:
    """Makes what a plan says and finishes the scene. Returns the summary.

    Args:
        engine: is given the tasks, if there are any.
        tell: told of every outcome as it is known, those of earlier runs first.
        processes: asked once the objects are made; how many may compose the scene.
    """
    outcomes = dict(whole.known)
    for outcome in whole.known.values():
        tell(outcome)
    count_as_missing(whole.tasks)
    if whole.tasks:
        for outcome in engine(whole.tasks):
            outcomes[outcome.number] = outcome
            tell(outcome)
    lost = [task.number for task in whole.tasks if task.number not in outcomes]
    if lost:
        raise FastSam3dError(f"the engine gave no word of the objects {lost}")
    return finish(whole, outcomes, config, processes())
