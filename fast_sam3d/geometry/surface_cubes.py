"""The cubes of a grid that a surface passes through, found from the active cells, without values for the whole grid.

The published mesh decoder gives each active cell values at its eight corners; a corner's value is the mean over the
active cells around it. Cells are cubes of the grid. Each sum is taken in the order of the cells' rows, so results do
not vary between runs on any device, and on a CPU they equal those of the stock scatter bit for bit.

Source of the facts: sam3d_objects/model/backbone/tdfy_dit/representations/mesh/{cube2mesh,utils_cube}.py
(`SparseFeatures2Mesh`, `cubes_to_verts`, `get_dense_attrs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["CHUNK", "CORNERS", "SurfaceCubes", "settled_cases", "surface_cubes"]

CORNERS: Final = tuple((corner & 1, corner >> 1 & 1, corner >> 2) for corner in range(8))
"""Of a cube, (x, y, z) from the lowest."""

CHUNK: Final = 2**18
"""Corners that are worked on at once."""

FAR: Final = 1.0
"""Distance at a corner without active cells, which is outside."""

NOWHERE: Final = 2**31 - 1
"""In place of a cell where there is none."""

# Comparisons that sort eight numbers (Batcher's odd-even merge sort).
SORTING: Final = (
    (0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6),
    (0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6),
)  # fmt: skip


@dataclass(frozen=True)
class SurfaceCubes:
    """Cubes and their corners, both ascending by x, y, z. A corner's grid number is (x · side + y) · side + z.

    cubes: [n] int64, the grid numbers of the cubes' lowest corners. corners: [n, 8] int32, rows of `lattice`.
    rows: [n] int64, rows of the cubes' own cells, -1 where a cube is no active cell. lattice: [M] int64, grid numbers.
    values: [M, 1 + C] float32, means at the corners: distance, negative inside, then the other values.
    """

    cubes: Tensor
    corners: Tensor
    rows: Tensor
    lattice: Tensor
    values: Tensor

    def occupied(self) -> Tensor:
        """[n, 8] bool, which corners are inside."""
        return (self.values[:, 0] < 0).index_select(0, self.corners.flatten()).view(self.corners.shape)


def surface_cubes(
    coords: Tensor, feats: Tensor, channels: Tensor, side: int, bias: float = 0.0, everywhere: bool = False
) -> SurfaceCubes:
    """The cubes with corners of both signs, and the mean values at their corners.

    Args:
        coords: [N, 3] integers, the active cells, each once and within 0 .. side - 2.
        feats: [N, W] of the cells, any floating type.
        channels: [8, 1 + C] int64, which of feats belong to each corner x + 2 y + 4 z: distance, then other values.
        side: corners along each axis of the grid.
        bias: added to each distance.
        everywhere: take the means at all corners of the grid, as the stock code does; same values, but slow.
    """
    device = coords.device
    feats = feats if len(feats) else feats.new_zeros(1, feats.shape[1])  # a row that corners without cells may read
    steps = [(i * side + j) * side + k for i, j, k in CORNERS]
    x, y, z = coords.int().unbind(1)
    active = ((x * side + y) * side + z).long()
    touched = torch.zeros(side**3, dtype=torch.bool, device=device)
    for step in steps:
        touched.index_fill_(0, active + step, 1)
    cells = _Cells(active, side)
    negative = torch.zeros_like(touched)
    for some in touched.nonzero().flatten().split(CHUNK):
        negative[some] = _means(cells.around(some), feats, channels[:, :1], bias)[:, 0] < 0
    cubes = _both_signs(negative.view(side, side, side))
    needed = touched.fill_(everywhere)
    for step in steps:
        needed.index_fill_(0, cubes + step, 1)
    lattice = needed.nonzero().flatten()
    del active, touched, needed, negative

    values = torch.empty(len(lattice), channels.shape[1], dtype=torch.float32, device=device)
    for some, part in zip(lattice.split(CHUNK), values.split(CHUNK), strict=True):
        part.copy_(_means(cells.around(some), feats, channels, bias))
    rows = cells.rows(cubes)
    number = cells.table[: side**3]  # the cells in it are not needed any more
    number[lattice] = torch.arange(len(lattice), dtype=torch.int32, device=device)
    corners = torch.stack([number.index_select(0, cubes + step) for step in steps], dim=1)
    return SurfaceCubes(cubes, corners, rows, lattice, values)


class _Cells:
    """Finds active cells in the grid.

    Args:
        active: [N] int64, grid numbers of their lowest corners. side: corners along each axis.
    """

    def __init__(self, active: Tensor, side: int) -> None:
        # Steps back from the first corner of the grid stay in the table, and find no cell.
        self.before = side * side + side + 1
        self.table = torch.full((self.before + side**3,), -1, dtype=torch.int32, device=active.device)
        self.table[active + self.before] = torch.arange(len(active), dtype=torch.int32, device=active.device)
        self.side = side

    def rows(self, cubes: Tensor) -> Tensor:
        """[n] int64 rows of cells, -1 where a cube is none."""
        return self.table.index_select(0, cubes + self.before).long()

    def around(self, corners: Tensor) -> list[Tensor]:
        """Eight tensors [M] int32: row · 8 + corner for the cells around each corner, ascending, then NOWHERE."""
        found = []
        for corner, (x, y, z) in enumerate(CORNERS):
            step = (x * self.side + y) * self.side + z
            row = self.table.index_select(0, corners + (self.before - step))
            found.append(torch.where(row < 0, NOWHERE, row * 8 + corner))
        for a, b in SORTING:
            found[a], found[b] = torch.minimum(found[a], found[b]), torch.maximum(found[a], found[b])
        return found


def _means(around: Sequence[Tensor], feats: Tensor, channels: Tensor, bias: float) -> Tensor:
    """[M, 1 + C] float32 means over the cells around corners; distance FAR and values 0 where there are none."""
    flat, width = feats.reshape(-1), feats.shape[1]
    total = torch.zeros(len(around[0]), channels.shape[1], dtype=torch.float32, device=feats.device)
    count = torch.zeros(len(around[0]), 1, dtype=torch.float32, device=feats.device)
    for code in around:
        missing = (code == NOWHERE)[:, None]
        code = code.masked_fill(missing[:, 0], 0)
        # Not shifted: before torch 2.5, MPS has no shifts.
        places = (code // 8).long()[:, None] * width + channels.index_select(0, code & 7)
        found = flat.index_select(0, places.view(-1)).view(places.shape).float()
        found[:, 0] += bias
        total += found.masked_fill_(missing, 0)
        count += ~missing
    total /= count.clamp(min=1)
    total[:, 0].masked_fill_(count[:, 0] == 0, FAR)
    return total


def _both_signs(negative: Tensor) -> Tensor:
    """[n] int64 numbers of the cubes with corners of both signs, ascending; negative: [side, side, side] bool."""
    side = len(negative)
    some = every = negative
    for axis in range(3):
        some = some.narrow(axis, 0, side - 1) | some.narrow(axis, 1, side - 1)
        every = every.narrow(axis, 0, side - 1) & every.narrow(axis, 1, side - 1)
    x, y, z = (some & ~every).nonzero().unbind(1)
    return (x * side + y) * side + z


def settled_cases(occupied: Tensor, ambiguous: Tensor, cubes: Tensor, side: int) -> Tensor:
    """[n] int64: each cube's sign pattern; two ambiguous cubes that share the face in question are inverted.

    Source: FlexiCubes (Shen et al., 2023), supplement 1.3.

    Args:
        occupied: [n, 8] bool, whether each corner is inside.
        ambiguous: [256, 5] per case: 1 where it is ambiguous, the step to the cube that decides, the case in its place.
        cubes: [n] grid numbers, ascending. side: corners along each axis.
    """
    cases = torch.stack([occupied[:, corner] * 2**corner for corner in range(8)], dim=1).sum(1)
    check = ambiguous[cases]
    other = torch.stack([cubes // (side * side), cubes // side % side, cubes % side], dim=1) + check[:, 1:4]
    inside = ((other >= 0) & (other < side - 1)).all(1)
    number = (other[:, 0] * side + other[:, 1]) * side + other[:, 2]
    at = torch.searchsorted(cubes, number).clamp_(max=max(len(cubes) - 1, 0))
    both = (check[:, 0] == 1) & (check[at, 0] == 1)
    return torch.where(both & inside & (cubes[at] == number), check[:, 4], cases)
