"""The plan of a scene: which objects are complete from earlier runs, and which are to be run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import InputError, OutputError
from fast_sam3d.outputs.folder import check_target, refuse_other_settings, writing
from fast_sam3d.run.export import PARTS
from fast_sam3d.scene.batch import groups_of
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.worker import DONE, OBJECT_NAMES, ObjectOutcome, ObjectTask, input_identity, outcome_of, read_done

__all__ = ["ScenePlan", "count_as_missing", "plan_scene"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ScenePlan:
    """The tasks of a scene.

    Args:
        target: the folder of its results.
        tasks: objects to reconstruct.
        known: outcomes known already, by mask: complete from an earlier run, an unusable mask, a duplicate.
        identities: of every object with a usable mask, by mask.
    """

    scene: SceneInput
    target: Path
    tasks: list[ObjectTask] = field(default_factory=list)
    known: dict[int, ObjectOutcome] = field(default_factory=dict)
    identities: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def plan_scene(
    scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool
) -> ScenePlan:
    """Compare every mask with the results of earlier runs; runs nothing.

    Args:
        settings: `scene.worker.config_identity`.
        target: the folder of the scene's results.
        overwrite: run every object again.

    Raises:
        OutputError: there are results of other settings or of another picture and `overwrite` is not set; or the folder
            cannot be written, is that of the input, or holds files that are not results.
    """
    if target.resolve() == scene.folder.resolve():
        raise OutputError(f"the results would go to {target}, where the picture is: choose another --output_dir")
    planned = ScenePlan(scene, target)
    seen: dict[str, int] = {}
    there_already = {number: read_done(target / str(number)) for number in scene.masks}
    others = [old for old in there_already.values() if old and _image(old) != scene.digests["image"]]
    if overwrite and others:
        log.warning("%s holds %d objects of another picture than %s, which are replaced", target, len(others),
                    scene.image_path)  # fmt: skip
    done = {} if overwrite else there_already
    for number, there in done.items():
        if there is not None and isinstance(old := there["identity"].get("settings"), dict):
            refuse_other_settings(target / str(number), old, settings)
    for number, source in scene.masks.items():
        try:
            given = input_identity(scene, number)
        except InputError as error:
            planned.known[number] = ObjectOutcome(number, "failed", str(error))
            continue
        first = seen.setdefault(given["mask"], number)
        if first != number:
            message = f"{source.name} has the same pixels as {scene.masks[first].name}, so it is the same object"
            log.warning("%s", message)
            planned.known[number] = ObjectOutcome(number, "duplicate", message)
            continue
        identity = {"input": given, "settings": settings}
        planned.identities[number] = identity
        there = done.get(number)
        if there is not None and there["identity"] == identity:
            planned.known[number] = outcome_of(number, there)
            continue
        if there is not None and there["identity"].get("input") != given:
            if _image(there) != given["image"]:
                raise OutputError(
                    f"{target / str(number)} was made from another picture than {scene.image_path}: add --overwrite to "
                    "replace everything, or choose another --output_dir"
                )
            log.info("object %d: its mask or pointmap has changed, so it is reconstructed again", number)
        check_target(target / str(number), OBJECT_NAMES, (PARTS,))
        planned.tasks.append(ObjectTask(scene.folder, config.input, number, target / str(number), identity))
    # Of all objects, so that a resumed run has the groups of an uninterrupted one.
    groups = groups_of(list(planned.identities), config.scene.batch)
    planned.tasks = [replace(task, group=groups.get(task.number, ())) for task in planned.tasks]
    return planned


def _image(done: Mapping[str, Any]) -> Any:
    """Digest of the picture of a complete object."""
    return done["identity"].get("input", {}).get("image")


def count_as_missing(tasks: Iterable[ObjectTask]) -> None:
    """Mark the objects of tasks as not complete, so that an interrupted run resumes with them. Raises OutputError."""
    for task in tasks:
        with writing(task.target):
            (task.target / DONE).unlink(missing_ok=True)
