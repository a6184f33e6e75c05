"""Assignment of objects to workers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["next_task"]


class HasTasks(Protocol):
    """A scene with tasks that no worker has yet; each task has a `group`."""

    waiting: list[Any]


SceneT = TypeVar("SceneT", bound=HasTasks)


def next_task(
    scenes: Sequence[SceneT], last: tuple[SceneT, Hashable] | None, others: Collection[tuple[SceneT, Hashable]]
) -> tuple[SceneT, Any] | None:
    """The next task of a worker, or None.

    A worker reads an image once per scene and samples the sparse structures of a group together, so it stays with its
    group, then takes another group of its scene without a worker, then a scene without a worker. It shares a scene with
    other workers only if nothing else is left: the one with the most tasks per worker, and a free group first.

    Args:
        last: scene and group of the worker's last task. others: those of the other workers.
    """
    groups: dict[tuple[SceneT, Hashable], list[Any]] = {}
    for scene in scenes:
        for task in scene.waiting:
            groups.setdefault((scene, task.group), []).append(task)

    def rank(place: tuple[SceneT, Hashable]) -> tuple[float, ...]:
        scene, free = place[0], place not in others
        fullest = 0 if free else -len(groups[place])
        workers = sum(other is scene for other, _ in others)
        if place == last:
            return (0,)
        if last is not None and scene is last[0]:
            return (1,) if free else (3, fullest)
        return (4, -len(scene.waiting) / (1 + workers), not free, fullest) if workers else (2,)

    if not groups:
        return None
    place = min(groups, key=rank)
    return place[0], groups[place][0]
