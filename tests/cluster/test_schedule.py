"""Assignment of objects to workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fast_sam3d.cluster.schedule import next_task


class EngineState:
    """State of the engine: scenes of groups of tasks, and the group of each worker."""

    def __init__(self, **scenes: tuple[int, ...]) -> None:
        self.scenes = [WaitingScene(name, sizes) for name, sizes in scenes.items()]
        self.places: dict[int, Any] = {}

    def next(self, worker: int) -> tuple[str, tuple[int, int]] | None:
        others = [place for other, place in self.places.items() if other != worker]
        found = next_task(self.scenes, self.places.get(worker), others)
        if found is None:
            return None
        scene, task = found
        scene.waiting.remove(task)
        self.places[worker] = (scene, task.group)
        return scene.name, (task.group, task.number)


class WaitingScene:
    def __init__(self, name: str, sizes: tuple[int, ...]) -> None:
        self.name = name
        self.waiting = [SimpleNamespace(group=g, number=n) for g, size in enumerate(sizes) for n in range(size)]


def test_a_worker_stays_with_its_scene():
    schedule = EngineState(a=(3,), b=(3,))
    assert [schedule.next(0) for _ in range(4)] == [("a", (0, 0)), ("a", (0, 1)), ("a", (0, 2)), ("b", (0, 0))]


def test_a_second_worker_takes_another_scene():
    schedule = EngineState(a=(9,), b=(1,), c=(1,))
    assert [schedule.next(worker)[0] for worker in (0, 1, 2)] == ["a", "b", "c"]
    assert schedule.next(0) == ("a", (0, 1))


def test_a_scene_is_shared_if_nothing_else_is_left():
    schedule = EngineState(a=(4,))
    assert [schedule.next(0), schedule.next(1)] == [("a", (0, 0)), ("a", (0, 1))]
    schedule.scenes.append(WaitingScene("b", (1,)))
    assert schedule.next(2) == ("b", (0, 0))
    assert schedule.next(1) == ("a", (0, 2))  # it stays with a


def test_the_scene_with_the_most_tasks_per_worker_is_shared():
    schedule = EngineState(a=(5,), b=(9,))
    assert [schedule.next(worker)[0] for worker in (0, 1)] == ["a", "b"]  # 4 and 8 are left
    assert schedule.next(2)[0] == "b"  # 8 / 2 against 4 / 2
    assert schedule.next(3)[0] == "b"  # 7 / 3 against 4 / 2
    assert schedule.next(4)[0] == "a"  # 6 / 4 against 4 / 2


def test_every_task_is_assigned_once():
    schedule = EngineState(a=(5,), b=(2,), c=(7,))
    given = []
    while (found := schedule.next(len(given) % 3)) is not None:
        given.append(found)
    assert sorted(given) == [(name, (0, n)) for name, count in (("a", 5), ("b", 2), ("c", 7)) for n in range(count)]


def test_workers_in_one_scene_have_a_group_each():
    schedule = EngineState(a=(2, 2))
    assert [schedule.next(worker) for worker in (0, 1, 0, 1)] == [
        ("a", (0, 0)), ("a", (1, 0)), ("a", (0, 1)), ("a", (1, 1)),
    ]  # fmt: skip


def test_a_group_is_shared_if_nothing_else_is_left():
    schedule = EngineState(a=(1, 3))
    assert [schedule.next(worker) for worker in (0, 1)] == [("a", (0, 0)), ("a", (1, 0))]
    schedule.scenes.append(WaitingScene("b", (1,)))
    assert schedule.next(0) == ("b", (0, 0))  # in its own scene only the other's group is left
    assert [schedule.next(0), schedule.next(1)] == [("a", (1, 1)), ("a", (1, 2))]


def test_the_next_group_of_its_scene_comes_before_another_scene():
    schedule = EngineState(a=(1, 1), b=(1,))
    assert [schedule.next(0)[0] for _ in range(3)] == ["a", "a", "b"]


def test_a_worker_that_joins_a_scene_takes_a_free_group_or_else_the_fullest():
    schedule = EngineState(a=(3, 1, 4, 6))
    assert [schedule.next(worker)[1][0] for worker in range(3)] == [0, 1, 2]
    assert [schedule.next(3), schedule.next(4)] == [("a", (3, 0)), ("a", (3, 1))]  # 2, 0, 3 and 5 are left


def test_a_free_group_comes_before_a_fuller_one():
    schedule = EngineState(a=(9, 1))
    schedule.next(0)
    assert schedule.next(1) == ("a", (1, 0))


def test_groups_of_two_scenes_are_not_mixed_up():
    schedule = EngineState(a=(1, 2), b=(1, 1, 2))
    assert [schedule.next(worker) for worker in (0, 1)] == [("a", (0, 0)), ("b", (0, 0))]
    assert schedule.next(0) == ("a", (1, 0))
    assert schedule.next(1) == ("b", (1, 0))  # not the fuller one: group 1 of the other scene is taken
