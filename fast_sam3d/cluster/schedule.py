"""Which object a worker makes next: one of the scene that it has been at, as long as there are any. Knows no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["Schedule"]

Scene = TypeVar("Scene")
Task = TypeVar("Task")


class Schedule(Generic[Scene, Task]):
    """Objects that wait, by scene, and the scene that each worker is at.

    A worker reads a picture once for all objects that it makes of it, one after another. So it stays with a scene, then
    takes one that nobody is at, and shares one with another worker only where it would have nothing to do.
    """

    def __init__(self) -> None:
        self._waiting: dict[Scene, deque[Task]] = {}
        self._at: dict[int, Scene] = {}

    def add(self, scene: Scene, tasks: Iterable[Task]) -> None:
        """Objects that are to be made; also one again, after the others of its scene."""
        self._waiting.setdefault(scene, deque()).extend(tasks)

    def drop(self, scene: Scene) -> None:
        """Nothing more of this scene."""
        self._waiting.pop(scene, None)

    def leave(self, worker: int) -> None:
        """The worker is no more."""
        self._at.pop(worker, None)

    @property
    def waiting(self) -> int:
        """Objects that no worker has yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def unvisited(self) -> int:
        """Scenes with objects that no worker is at."""
        return len(self._unvisited())

    def next(self, worker: int, split: bool = True) -> tuple[Scene, Task] | None:
        """The worker's next object, which no longer waits; None if there is none for it.

        Args:
            split: whether it may share a scene with another worker.
        """
        scene = self._at.get(worker)
        if scene is None or not self._waiting.get(scene):
            scene = self._choose(split)
            if scene is None:
                return None
            self._at[worker] = scene
        queue = self._waiting[scene]
        task = queue.popleft()
        if not queue:
            del self._waiting[scene]
        return scene, task

    def _unvisited(self) -> list[Scene]:
        visited = set(self._at.values())
        return [scene for scene, queue in self._waiting.items() if queue and scene not in visited]

    def _choose(self, split: bool) -> Scene | None:
        fresh = self._unvisited()
        if fresh:
            return fresh[0]
        shared = [scene for scene, queue in self._waiting.items() if queue] if split else []
        at = list(self._at.values())
        # The one with the most left to do for each that works at it.
        return max(shared, key=lambda scene: len(self._waiting[scene]) / (1 + at.count(scene)), default=None)
