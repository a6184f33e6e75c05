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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError, InputError, OutputError
from fast_sam3d.outputs.folder import check_target, refuse_other_settings
from fast_sam3d.scene.batch import groups_of
from fast_sam3d.scene.cleanup import clear_left_behind
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.parallel import Engine
from fast_sam3d.scene.worker import DONE, OBJECT_NAMES, ObjectTask, Outcome, input_identity, read_done

__all__ = [
    "LOCK",
    "Plan",
    "count_as_missing",
    "plan",
    "run_folder",
    "scene_lock",
]

log = logging.getLogger(__name__)

LOCK = ".fast_sam3d.lock"
LOCK_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Plan:
    """What is to be done for a scene.

    Args:
        target: the folder of its results.
        tasks: objects to be made.
        known: what is known already, by mask: complete from an earlier run, a mask that cannot be used, a duplicate.
        identities: of every object that can be made, by mask.
    """

    scene: SceneInput
    target: Path
    tasks: list[ObjectTask] = field(default_factory=list)
    known: dict[int, Outcome] = field(default_factory=dict)
    identities: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def plan(scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool = False) -> Plan:
    """Looks at every mask and at what is there from earlier runs; makes nothing.

    Args:
        settings: `scene.worker.config_identity`.
        target: the folder of the scene's results.
        overwrite: make everything again.

    Raises:
        OutputError: results of other settings are there and `overwrite` is not set; the place cannot be written, is
            in the way of the input, or holds files that are not results.
    """
    _refuse_input_folder(scene, target)
    whole = Plan(scene, target)
    seen: dict[str, int] = {}
    done = {number: read_done(target / str(number)) for number in scene.masks}
    if not overwrite:
        _refuse_other_settings(target, done, settings)
    for number, path in scene.masks.items():
        try:
            given = input_identity(scene, number)
        except InputError as error:
            whole.known[number] = Outcome(number, "failed", str(error))
            continue
        first = seen.setdefault(given["mask"], number)
        if first != number:
            message = f"{path.name} has the same pixels as {scene.masks[first].name}, so it is the same object"
            log.warning("%s", message)
            whole.known[number] = Outcome(number, "duplicate", message)
            continue
        identity = {"input": given, "settings": settings}
        whole.identities[number] = identity
        there = done[number]
        if there is not None and not overwrite and there["identity"] == identity:
            told = tuple(there.get("out_of_memory", ()))
            whole.known[number] = Outcome(number, "complete", "", tuple(there.get("formats", ())), told)
            continue
        if there is not None and not overwrite and there["identity"].get("input") != given:
            if there["identity"].get("input", {}).get("image") != given["image"]:
                raise OutputError(
                    f"{target / str(number)} was made from another picture than {scene.image_path}: add --overwrite to "
                    "replace everything, or choose another --output_dir"
                )
            log.info("object %d: its mask or pointmap has changed, so it is reconstructed again", number)
        check_target(target / str(number), OBJECT_NAMES)
        whole.tasks.append(ObjectTask(scene.folder, config.input.pointmap, number, target / str(number), identity))
    # Of all objects that can be made, so that a run that goes on has the groups of one that was not stopped.
    groups = groups_of(list(whole.identities), config.scene.batch)
    whole.tasks = [replace(task, group=groups.get(task.number, ())) for task in whole.tasks]
    return whole


def _refuse_input_folder(scene: SceneInput, target: Path) -> None:
    if target.resolve() == scene.folder.resolve():
        raise OutputError(f"the results would go to {target}, where the picture is: choose another --output_dir")


def _refuse_other_settings(
    target: Path, done: Mapping[int, Mapping[str, Any] | None], settings: Mapping[str, Any]
) -> None:
    for number, there in done.items():
        old = None if there is None else there["identity"].get("settings")
        if isinstance(old, dict):
            refuse_other_settings(target / str(number), old, settings)


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
            clear_left_behind(target)
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


def count_as_missing(tasks: Iterable[ObjectTask]) -> None:
    """What is to be made again counts as missing from now on: a run that is stopped goes on where it was."""
    for task in tasks:
        (task.target / DONE).unlink(missing_ok=True)


def run_folder(
    whole: Plan,
    config: Config,
    engine: Engine,
    tell: Callable[[Outcome], None] = lambda outcome: None,
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
