"""A scene on the driver's side, from its plan to its summary. It keeps no pixels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_sam3d.cluster.actor import Closing
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.folder import check_target, clear_unfinished
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.folder import scene_lock
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.plan import count_as_missing, plan_scene
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, read_done

__all__ = ["SceneJob"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class SceneJob:
    """One scene. Its folder is locked until `close`.

    Args:
        target: where its results go.
        tasks: objects to be made.
        outcomes: what is known of its objects, by mask.
        running: objects that workers have. composing: a worker has, or is to get, the end of it.
        attempts: workers that died with an object, by mask.
        summary: when it is done. error: if it cannot be.
    """

    name: str
    folder: Path
    pointmap: str
    target: Path
    tasks: list[ObjectTask]
    identities: Mapping[int, Mapping[str, Any]]
    outcomes: dict[int, ObjectOutcome]
    running: int = 0
    composing: bool = False
    attempts: dict[int, int] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    error: FastSam3dError | None = None
    _lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def open(
        cls, scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool
    ) -> SceneJob:
        """Plans a scene; one without anything to make is finished at once. Arguments and errors as `plan`'s."""
        check_target(target / ".fast_sam3d-new", ())  # so that nothing is made where nothing can be written
        with contextlib.ExitStack() as stack:
            stack.enter_context(scene_lock(target))
            whole = plan_scene(scene, config, settings, target, overwrite)
            kept = sum(known.status == "complete" for known in whole.known.values())
            if kept:
                log.info("%s: %d of %d objects are there already; --overwrite makes them again", scene.name, kept,
                         len(scene.masks))  # fmt: skip
            for outcome in whole.known.values():
                if outcome.status == "failed":
                    log.error("%s, object %d failed: %s", scene.name, outcome.number, outcome.message)
            job = cls(
                scene.name, scene.folder, config.input.pointmap, target, list(whole.tasks), whole.identities,
                dict(whole.known),
            )  # fmt: skip
            count_as_missing(job.tasks)
            if not job.tasks:
                job.summary = finish(whole, job.outcomes, config)
            job._lock = stack.pop_all()
        return job

    @property
    def made(self) -> bool:
        """Nothing is left to do but to compose."""
        return not self.running and all(task.number in self.outcomes for task in self.tasks)

    def found(self, task: ObjectTask) -> ObjectOutcome | None:
        """The object, if it is there in its whole although nobody has told."""
        done = read_done(task.target)
        if done is None or done["identity"] != task.identity:
            return None
        return ObjectOutcome(
            task.number, "complete", "", tuple(done.get("formats", ())), tuple(done.get("out_of_memory", ()))
        )

    def closing(self) -> Closing:
        """What a worker is to compose. Clears away what dead workers have begun."""
        clear_unfinished(self.target)
        return Closing(self.folder, self.pointmap, self.target, self.identities, dict(self.outcomes))

    def close(self) -> None:
        """Gives the folder to others. Nobody may be writing there any more."""
        if self.target.is_dir():
            clear_unfinished(self.target)
        self._lock.close()
