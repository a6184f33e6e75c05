"""What is to be done for a scene: which objects are complete from earlier runs, and which are to be run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import InputError, OutputError
from fast_sam3d.outputs.folder import check_target, refuse_other_settings
from fast_sam3d.scene.batch import groups_of
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.worker import DONE, OBJECT_NAMES, ObjectOutcome, ObjectTask, input_identity, read_done

__all__ = ["ScenePlan", "count_as_missing", "plan_scene"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ScenePlan:
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
    known: dict[int, ObjectOutcome] = field(default_factory=dict)
    identities: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def plan_scene(
    scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool = False
) -> ScenePlan:
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
    whole = ScenePlan(scene, target)
    seen: dict[str, int] = {}
    done = {number: read_done(target / str(number)) for number in scene.masks}
    if not overwrite:
        _refuse_other_settings(target, done, settings)
    for number, path in scene.masks.items():
        try:
            given = input_identity(scene, number)
        except InputError as error:
            whole.known[number] = ObjectOutcome(number, "failed", str(error))
            continue
        first = seen.setdefault(given["mask"], number)
        if first != number:
            message = f"{path.name} has the same pixels as {scene.masks[first].name}, so it is the same object"
            log.warning("%s", message)
            whole.known[number] = ObjectOutcome(number, "duplicate", message)
            continue
        identity = {"input": given, "settings": settings}
        whole.identities[number] = identity
        there = done[number]
        if there is not None and not overwrite and there["identity"] == identity:
            told = tuple(there.get("out_of_memory", ()))
            whole.known[number] = ObjectOutcome(number, "complete", "", tuple(there.get("formats", ())), told)
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


def count_as_missing(tasks: Iterable[ObjectTask]) -> None:
    """What is to be made again counts as missing from now on: a run that is stopped goes on where it was."""
    for task in tasks:
        (task.target / DONE).unlink(missing_ok=True)
