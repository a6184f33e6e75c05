"""Tables of dual marching cubes, derived for all 256 sign patterns of a cube.

A cube's corners are numbered x + 2 y + 4 z, its sign pattern has bit c set where corner c is inside. A dual vertex
stands for one connected piece of the surface in the cube, which is a group of crossed edges: two crossed edges of a
face belong together, and on a face with four of them (an ambiguous face) the two at each inside corner do.

Source of the order in which FlexiCubes numbers groups: Shen et al., 2023, "Flexible Isosurface Extraction for
Gradient-Based Mesh Optimization", section 4 and supplement 1.3; Nielson, 2004, "Dual Marching Cubes".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

from fast_sam3d.geometry.surface_cubes import CORNERS

__all__ = ["EDGES", "MOST_EDGES", "MOST_GROUPS", "Tables", "groups", "tables"]

EDGES: Final = ((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4))
"""The two corners of each edge, in the order of the published weights."""

MOST_GROUPS: Final = 4
MOST_EDGES: Final = 7
"""Largest number of groups in a cube, and of edges in a group."""

CASES: Final = 256


class Tables(NamedTuple):
    """On the CPU; int64 but for the first.

    Args:
        group_of_edge: [256, 12] int32, group of each crossed edge, -1 for others.
        group_count: [256] number of groups.
        group_edges: [256, 4, 7] edges of each group, ascending, then -1.
        ambiguous: [256, 5] for cases whose one ambiguous face joins two pieces of the surface: 1, the step (x, y, z)
            to the cube behind that face, and the inverted case, which replaces it where that cube is such a case, too.
    """

    group_of_edge: Tensor
    group_count: Tensor
    group_edges: Tensor
    ambiguous: Tensor


@functools.cache
def tables() -> Tables:
    """The tables of all cases; derived once."""
    group_of_edge = torch.full((CASES, len(EDGES)), -1, dtype=torch.int32, device="cpu")
    group_edges = torch.full((CASES, MOST_GROUPS, MOST_EDGES), -1, device="cpu")
    ambiguous = torch.zeros(CASES, 5, dtype=torch.long, device="cpu")
    for case in range(CASES):
        for number, group in enumerate(groups(case)):
            group_of_edge[case, list(group)] = number
            group_edges[case, number, : len(group)] = torch.tensor(group, device="cpu")
        step = _deciding_face(case)
        if step is not None:
            ambiguous[case] = torch.tensor([1, *step, CASES - 1 - case], device="cpu")
    return Tables(group_of_edge, group_of_edge.amax(1).long() + 1, group_edges, ambiguous)


def groups(case: int, at_inside: bool = True) -> list[tuple[int, ...]]:
    """Groups of crossed edges, each ascending.

    They are ordered by the smallest inside corner that they touch, or by the smallest outside corner if more than four
    corners are inside.

    Args:
        case: sign pattern, 0 to 255.
        at_inside: whether to link the two edges at each inside corner of an ambiguous face, else at each outside one.
    """
    group = {edge: edge for edge in _crossed(case)}
    for face, _ in _faces():
        crossed = [edge for edge in group if set(EDGES[edge]) <= face]
        for a, b in itertools.combinations(crossed, 2):
            shared = set(EDGES[a]) & set(EDGES[b])
            if len(crossed) == 2 or any(_inside(case, corner) == at_inside for corner in shared):
                old, new = group[b], group[a]
                group = {edge: new if own == old else own for edge, own in group.items()}
    counted = case.bit_count() <= 4

    def first_corner(edges: tuple[int, ...]) -> int:
        return min(corner for edge in edges for corner in EDGES[edge] if _inside(case, corner) == counted)

    found = [tuple(edge for edge in sorted(group) if group[edge] == own) for own in set(group.values())]
    return sorted(found, key=first_corner)


def _deciding_face(case: int) -> tuple[int, int, int] | None:
    """Outward normal of a case's ambiguous face, if it is the only one and joins what the other links separate."""
    crossed = set(_crossed(case))
    found = [normal for face, normal in _faces() if sum(set(EDGES[edge]) <= face for edge in crossed) == 4]
    return found[0] if len(found) == 1 and len(groups(case)) < len(groups(case, at_inside=False)) else None


def _crossed(case: int) -> Iterator[int]:
    return (edge for edge, (a, b) in enumerate(EDGES) if _inside(case, a) != _inside(case, b))


def _inside(case: int, corner: int) -> bool:
    return bool(case >> corner & 1)


def _faces() -> Iterator[tuple[set[int], tuple[int, int, int]]]:
    """The four corners and the outward normal of each face."""
    for axis, upper in itertools.product(range(3), (0, 1)):
        normal = [0, 0, 0]
        normal[axis] = 2 * upper - 1
        yield {c for c in range(8) if CORNERS[c][axis] == upper}, (normal[0], normal[1], normal[2])
