"""Who makes what next."""

from __future__ import annotations

from fast_sam3d.cluster.schedule import Schedule


def filled(**scenes: int) -> Schedule[str, int]:
    schedule: Schedule[str, int] = Schedule()
    for scene, count in scenes.items():
        schedule.add(scene, range(count))
    return schedule


def test_a_worker_stays_with_its_scene():
    schedule = filled(a=3, b=3)
    assert [schedule.next(0) for _ in range(3)] == [("a", 0), ("a", 1), ("a", 2)]
    assert schedule.next(0) == ("b", 0)


def test_a_second_worker_takes_a_scene_of_its_own():
    schedule = filled(a=9, b=1, c=1)
    assert [schedule.next(worker)[0] for worker in (0, 1, 2)] == ["a", "b", "c"]
    assert schedule.unvisited == 0
    assert schedule.next(0) == ("a", 1)


def test_a_scene_is_shared_only_by_who_has_nothing_else():
    schedule = filled(a=4)
    assert schedule.next(0) == ("a", 0)
    assert schedule.next(1, split=False) is None
    assert schedule.next(1) == ("a", 1)
    schedule.add("b", [7])
    assert schedule.next(2) == ("b", 7)
    assert schedule.next(1) == ("a", 2)  # it is at a now


def test_the_scene_with_the_most_left_for_each_is_shared():
    schedule = filled(a=5, b=9)
    assert [schedule.next(worker)[0] for worker in (0, 1)] == ["a", "b"]  # 4 and 8 are left
    assert schedule.next(2)[0] == "b"  # 7 are left, for two
    assert schedule.next(3)[0] == "b"  # 7 / 3 against 4 / 2
    assert schedule.next(4)[0] == "a"  # 6 / 4 against 4 / 2


def test_everything_is_given_once():
    schedule = filled(a=5, b=2, c=7)
    given = []
    while schedule.waiting:
        given.append(schedule.next(len(given) % 3))
    assert sorted(given) == [(scene, n) for scene, count in (("a", 5), ("b", 2), ("c", 7)) for n in range(count)]
    assert schedule.next(0) is None


def test_what_comes_back_waits_behind_the_others():
    schedule = filled(a=2)
    _, task = schedule.next(0)
    schedule.add("a", [task])
    assert [schedule.next(0), schedule.next(0)] == [("a", 1), ("a", 0)]


def test_a_dropped_scene_and_a_lost_worker():
    schedule = filled(a=2, b=1)
    schedule.next(0)
    schedule.leave(0)
    assert schedule.unvisited == 2
    schedule.drop("a")
    assert schedule.waiting == 1
    assert schedule.next(1) == ("b", 0)


def grouped(**scenes: tuple[int, ...]) -> Schedule[str, tuple[int, int]]:
    """Objects (group, number) of scenes with groups of these sizes."""
    schedule: Schedule[str, tuple[int, int]] = Schedule(lambda task: task[0])
    for scene, sizes in scenes.items():
        schedule.add(scene, [(group, number) for group, size in enumerate(sizes) for number in range(size)])
    return schedule


def test_workers_at_one_scene_have_a_group_each():
    schedule = grouped(a=(2, 2))
    assert [schedule.next(worker) for worker in (0, 1, 0, 1)] == [
        ("a", (0, 0)), ("a", (1, 0)), ("a", (0, 1)), ("a", (1, 1)),
    ]  # fmt: skip


def test_a_group_is_shared_only_where_nothing_else_is_left():
    schedule = grouped(a=(1, 3))
    assert [schedule.next(worker) for worker in (0, 1)] == [("a", (0, 0)), ("a", (1, 0))]
    schedule.add("b", [(0, 0)])
    assert schedule.next(0) == ("b", (0, 0))  # its own scene has only the other's group
    assert schedule.next(0, split=False) is None
    assert schedule.next(0) == ("a", (1, 1))
    assert schedule.next(1) == ("a", (1, 2))


def test_the_next_group_of_its_own_scene_comes_before_another_scene():
    schedule = grouped(a=(1, 1), b=(1,))
    assert [schedule.next(0)[0] for _ in range(3)] == ["a", "a", "b"]


def test_who_joins_a_scene_takes_a_group_that_nobody_is_at_or_else_the_fullest():
    schedule = grouped(a=(3, 1, 4, 6))
    assert [schedule.next(worker)[1][0] for worker in range(3)] == [0, 1, 2]
    assert schedule.next(3) == ("a", (3, 0))
    assert schedule.next(4) == ("a", (3, 1))  # 2, 0, 3 and 5 are left


def test_a_free_group_comes_before_a_fuller_one():
    schedule = grouped(a=(9, 1))
    schedule.next(0)
    assert schedule.next(1) == ("a", (1, 0))


def test_groups_of_two_scenes_are_not_mixed_up():
    schedule = grouped(a=(1, 2), b=(1, 1, 2))
    assert [schedule.next(worker) for worker in (0, 1)] == [("a", (0, 0)), ("b", (0, 0))]
    assert schedule.next(0) == ("a", (1, 0))
    assert schedule.next(1) == ("b", (1, 0))  # not the fuller one: the other is at group 1 of a
