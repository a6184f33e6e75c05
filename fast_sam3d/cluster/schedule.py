"""Which object a worker makes next: one of the group and the scene that it has been at, as long as there are any.

Knows no Ray.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Schedule"]

Scene = TypeVar("Scene")
Task = TypeVar("Task")


class Schedule(Generic[Scene, Task]):
    """Objects that wait, by scene and group, and where each worker is.

    A worker reads a picture once for all objects that it makes of it, and samples the structures of a whole group
    before the first of its objects. So it stays with a group, then takes one of the same scene that nobody is at, then
    a scene that nobody is at, and shares a scene with other workers only where it would have nothing to do: a group
    that nobody is at before one that somebody is.

    Args:
        group_of: the group of an object within its scene; without it every scene is one group.
    """

    def __init__(self, group_of: Callable[[Task], Hashable] = lambda task: None) -> None:
        self._group_of = group_of
        self._waiting: dict[Scene, dict[Hashable, deque[Task]]] = {}
        self._at: dict[int, tuple[Scene, Hashable]] = {}

    def add(self, scene: Scene, tasks: Iterable[Task]) -> None:
        """Objects that are to be made; also one again, after the others of its group."""
        for task in tasks:
            self._waiting.setdefault(scene, {}).setdefault(self._group_of(task), deque()).append(task)

    def drop(self, scene: Scene) -> None:
        """Nothing more of this scene."""
        self._waiting.pop(scene, None)

    def leave(self, worker: int) -> None:
        """The worker is no more."""
        self._at.pop(worker, None)

    @property
    def waiting(self) -> int:
        """Objects that no worker has yet."""
        return sum(map(self._left, self._waiting))

    @property
    def unvisited(self) -> int:
        """Scenes with objects that no worker is at."""
        return len(self._unvisited())

    def next(self, worker: int, split: bool = True) -> tuple[Scene, Task] | None:
        """The worker's next object, which no longer waits; None if there is none for it.

        Args:
            split: whether it may share a scene with another worker.
        """
        place = self._choose(worker, split)
        if place is None:
            return None
        self._at[worker] = scene, group = place
        groups = self._waiting[scene]
        task = groups[group].popleft()
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._waiting[scene]
        return scene, task

    def _choose(self, worker: int, split: bool) -> tuple[Scene, Hashable] | None:
        at = self._at.get(worker)
        own = None if at is None else at[0]
        if at is not None and at[1] in self._waiting.get(at[0], ()):
            return at
        if own in self._waiting and (free := self._free_groups(own)):
            return own, free[0]
        fresh = self._unvisited()
        if fresh:
            return fresh[0], next(iter(self._waiting[fresh[0]]))
        if own in self._waiting:
            return own, self._fullest_group(own)
        if not (split and self._waiting):
            return None
        # The one with the most left to do for each that works at it.
        workers = Counter(scene for scene, _ in self._at.values())
        scene = max(self._waiting, key=lambda scene: self._left(scene) / (1 + workers[scene]))
        free = self._free_groups(scene)
        return scene, free[0] if free else self._fullest_group(scene)

    def _left(self, scene: Scene) -> int:
        return sum(map(len, self._waiting[scene].values()))

    def _unvisited(self) -> list[Scene]:
        visited = {scene for scene, _ in self._at.values()}
        return [scene for scene in self._waiting if scene not in visited]

    def _free_groups(self, scene: Scene) -> list[Hashable]:
        visited = {group for other, group in self._at.values() if other == scene}
        return [group for group in self._waiting[scene] if group not in visited]

    def _fullest_group(self, scene: Scene) -> Hashable:
        groups = self._waiting[scene]
        return max(groups, key=lambda group: len(groups[group]))
