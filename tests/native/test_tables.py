"""Tables of dual marching cubes: what holds for each sign pattern. `tests/stock/native` has the stock ones."""

from __future__ import annotations

import itertools

import pytest
import torch

from fast_sam3d.geometry.surface_cubes import CORNERS
from fast_sam3d.native.tables import EDGES, groups, tables

INSIDE = [[bool(case >> corner & 1) for corner in range(8)] for case in range(256)]
FACES = [
    [corner for corner in range(8) if CORNERS[corner][axis] == upper] for axis in range(3) for upper in (0, 1)
]  # fmt: skip


def test_each_crossed_edge_is_in_one_group() -> None:
    for case in range(256):
        crossed = [edge for edge, (a, b) in enumerate(EDGES) if INSIDE[case][a] != INSIDE[case][b]]
        assert sorted(edge for group in groups(case) for edge in group) == crossed
        assert all(list(group) == sorted(group) for group in groups(case))


def test_edges_join_neighbouring_corners() -> None:
    assert len({frozenset(edge) for edge in EDGES}) == 12
    assert all(sum(x != y for x, y in zip(CORNERS[a], CORNERS[b], strict=True)) == 1 for a, b in EDGES)


def test_each_group_is_one_closed_loop_through_the_faces() -> None:
    """Each edge of a group continues across both of its faces, once each, within its group."""
    for case in range(256):
        for group in groups(case):
            steps = dict.fromkeys(group, 0)
            for face in FACES:
                own = [edge for edge in group if set(EDGES[edge]) <= set(face)]
                assert len(own) in (0, 2, 4)
                for edge in own:
                    steps[edge] += 1
            assert set(steps.values()) == {2} and 3 <= len(group) <= 7


def test_opposite_inside_corners_of_a_face_are_apart() -> None:
    """One piece of surface cuts off each of the two, unless another path joins them."""
    case = 1 << 0 | 1 << 3  # one face, opposite corners
    assert groups(case) == [(0, 3, 8), (4, 5, 9)]
    assert len(groups(case, at_inside=False)) == 1
    assert len(groups(255 - case)) == 1


@pytest.mark.parametrize("case", [0, 255])
def test_no_surface_no_group(case: int) -> None:
    assert groups(case) == [] and int(tables().group_count[case]) == 0


def test_groups_are_ordered_by_their_first_corner() -> None:
    assert groups(0b01101001) == [(0, 3, 8), (4, 5, 9), (1, 2, 10), (6, 7, 11)]  # corners 0, 3, 5, 6
    assert groups(255 - 0b10000001) == [(0, 3, 8), (5, 6, 10)]  # more than four inside: by outside corners


def test_the_number_of_pieces_of_a_complement_differs_only_at_ambiguous_faces() -> None:
    for case in range(256):
        ambiguous = any(
            sum(INSIDE[case][corner] for corner in face) == 2
            and all(INSIDE[case][a] != INSIDE[case][b] for a, b in itertools.combinations(face, 2) if _adjacent(a, b))
            for face in FACES
        )
        assert ambiguous or sorted(groups(case)) == sorted(groups(255 - case))


def test_ambiguous_cases_name_the_cube_behind_their_face() -> None:
    ambiguous = tables().ambiguous
    assert int(ambiguous[:, 0].sum()) == 36
    for case in ambiguous[:, 0].nonzero().flatten().tolist():
        _, *step, instead = ambiguous[case].tolist()
        axis = next(i for i in range(3) if step[i])
        face = FACES[2 * axis + (step[axis] > 0)]
        assert sorted(map(abs, step)) == [0, 0, 1] and instead == 255 - case
        assert [INSIDE[case][corner] for corner in face] in ([True, False, False, True], [False, True, True, False])
        assert len(groups(instead)) == len(groups(case)) + 1
    assert not ambiguous[ambiguous[:, 0] == 0].any()


def test_tables_agree_with_the_groups() -> None:
    made = tables()
    for case in range(256):
        found = groups(case)
        assert int(made.group_count[case]) == len(found)
        padded = [[*group, *[-1] * (7 - len(group))] for group in found] + [[-1] * 7] * (4 - len(found))
        assert made.group_edges[case].tolist() == padded
        owners = {edge: number for number, group in enumerate(found) for edge in group}
        assert made.group_of_edge[case].tolist() == [owners.get(edge, -1) for edge in range(12)]


def test_built_on_the_host_whatever_the_default_device() -> None:
    tables.cache_clear()
    with torch.device("meta"):
        assert all(table.device.type == "cpu" for table in tables())


def _adjacent(a: int, b: int) -> bool:
    return sum(x != y for x, y in zip(CORNERS[a], CORNERS[b], strict=True)) == 1
