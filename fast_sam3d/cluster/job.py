"""One scene on the driver, from its plan to its summary."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.folder import check_target, clear_unfinished
from fast_sam3d.scene.compose import finish
from fast_sam3d.scene.folder import scene_lock
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.plan import count_as_missing, plan_scene
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, outcome_of, read_done

__all__ = ["SceneJob", "completed_on_disk"]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class SceneJob:
    """One scene. Its folder is locked until `close`.

    Args:
        target: result folder.
        waiting: objects that no worker has.
        identities: see `ScenePlan`.
        outcomes: of finished objects, by mask.
        deaths: workers that died with an object, by mask; None: while composing.
        summary: of the finished scene. error: why it cannot be finished.
    """

    name: str
    folder: Path
    asked: InputConfig
    target: Path
    waiting: list[ObjectTask]
    identities: Mapping[int, Mapping[str, Any]]
    outcomes: dict[int, ObjectOutcome]
    deaths: Counter[int | None] = field(default_factory=Counter)
    summary: Mapping[str, Any] | None = None
    error: FastSam3dError | None = None
    _lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    def open(
        cls, scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool
    ) -> SceneJob:
        """Plan a scene; if all its objects are complete it is composed here. Arguments and errors: see `plan_scene`."""
        check_target(target / ".fast_sam3d-new", ())
        with contextlib.ExitStack() as stack:
            stack.enter_context(scene_lock(target))
            plan = plan_scene(scene, config, settings, target, overwrite)
            kept = sum(known.status == "complete" for known in plan.known.values())
            if kept:
                log.info("%s: %d of %d objects are complete; --overwrite replaces them", scene.name, kept,
                         len(scene.masks))  # fmt: skip
            for outcome in plan.known.values():
                if outcome.status == "failed":
                    log.error("%s, object %d failed: %s", scene.name, outcome.number, outcome.message)
            count_as_missing(plan.tasks)
            return cls(
                scene.name, scene.folder, config.input, target, plan.tasks, plan.identities, plan.known,
                summary=None if plan.tasks else finish(plan, plan.known, config), _lock=stack.pop_all(),
            )  # fmt: skip

    def close(self) -> None:
        """Release the folder. No worker may be writing to it."""
        if self.target.is_dir():
            clear_unfinished(self.target)
        self._lock.close()


def completed_on_disk(task: ObjectTask) -> ObjectOutcome | None:
    """The outcome of an object that a worker completed before it died."""
    done = read_done(task.target)
    if done is None or done["identity"] != task.identity:
        return None
    return outcome_of(task.number, done)
