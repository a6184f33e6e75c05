"""Assignment of objects to workers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import TypeAlias

from fast_sam3d.cluster.job import SceneJob
from fast_sam3d.scene.worker import ObjectTask

__all__ = ["Place", "next_task"]

Place: TypeAlias = tuple[SceneJob, Hashable]
"""A scene and the group of a task in it."""


def next_task(
    scenes: Sequence[SceneJob], last: Place | None, others: Collection[Place]
) -> tuple[SceneJob, ObjectTask] | None:
    """The next task of a worker, or None.

    A worker reads an image once per scene and samples the sparse structures of a group together, so it stays with its
    group, then takes another group of its scene without a worker, then a scene without a worker. It shares a scene with
    other workers only if nothing else is left: the one with the most tasks per worker, and a free group first.

    Args:
        last: place of the worker's last task. others: those of the other workers.
    """
    groups: dict[Place, list[ObjectTask]] = {}
    for scene in scenes:
        for task in scene.waiting:
            groups.setdefault((scene, task.group), []).append(task)

    def rank(place: Place) -> tuple[float, ...]:
        scene, free = place[0], place not in others
        fullest = 0 if free else -len(groups[place])
        workers = sum(other is scene for other, _ in others)
        if place == last:
            return (0,)
        if last is not None and scene is last[0]:
            return (1,) if free else (3, fullest)
        return (4, -len(scene.waiting) / (1 + workers), not free, fullest) if workers else (2,)

    place = min(groups, key=rank, default=None)
    return None if place is None else (place[0], groups[place][0])
