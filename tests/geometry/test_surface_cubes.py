"""Cubes that a surface passes through, and means at their corners, against the whole grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fast_sam3d.geometry import surface_cubes as module
from fast_sam3d.geometry.surface_cubes import settled_cases, surface_cubes

CORNERS = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)])
CHANNELS = torch.cat([torch.arange(8)[:, None], 8 + torch.arange(16).view(8, 2)], dim=1)
"""Distance and two more values of each corner."""


def objects(seed: int, share: float, res: int) -> tuple[Tensor, Tensor]:
    """Cells in any order, and their features."""
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(res, res, res, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return coords, torch.randn(len(coords), 24, generator=generator)


def dense_means(coords: Tensor, values: Tensor, side: int) -> Tensor:
    """[side, side, side, C]: mean of values [N, 8, C] at every corner, added one by one; distance 1, else 0 beyond."""
    total, count = torch.zeros(side, side, side, values.shape[-1]), torch.zeros(side, side, side, 1)
    for cell, row in zip(coords.tolist(), values, strict=True):
        for corner, value in zip(CORNERS.tolist(), row, strict=True):
            x, y, z = (a + b for a, b in zip(cell, corner, strict=True))
            total[x, y, z] += value
            count[x, y, z] += 1
    beyond = torch.zeros(values.shape[-1])
    beyond[0] = 1
    return torch.where(count > 0, total / count, beyond)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(("seed", "share"), [(0, 0.02), (1, 0.1), (2, 0.5), (3, 1.0), (4, 0.0)])
def test_equal_to_the_whole_grid(seed: int, share: float, everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 17)
    res, side, bias = 6, 7, -0.1
    coords, feats = objects(seed, share, res)
    found = surface_cubes(coords, feats, CHANNELS, side, bias, everywhere)
    values = feats[:, CHANNELS].clone()
    values[..., 0] += bias
    means = dense_means(coords, values, side)
    negative = means[..., 0] < 0
    want = []
    for x in range(res):
        for y in range(res):
            for z in range(res):
                corners = [bool(negative[x + i, y + j, z + k]) for i, j, k in CORNERS.tolist()]
                if any(corners) and not all(corners):
                    want.append((x * side + y) * side + z)
    assert found.cubes.tolist() == want

    steps = (CORNERS * torch.tensor([side * side, side, 1])).sum(1)
    assert torch.equal(found.lattice[found.corners.long()], found.cubes[:, None] + steps)
    assert torch.equal(found.occupied(), negative.flatten()[found.cubes[:, None] + steps])
    assert len(found.lattice) == (side**3 if everywhere else len(found.corners.unique()))
    assert torch.equal(found.values, means.view(side**3, 3)[found.lattice])
    cells = (coords * torch.tensor([side * side, side, 1])).sum(1).tolist()
    assert found.rows.tolist() == [cells.index(cube) if cube in cells else -1 for cube in want]


def test_values_beyond_numbers_stay_at_their_corners() -> None:
    coords, feats = objects(5, 0.3, 5)
    feats[::7, 8:] = torch.nan
    found = surface_cubes(coords, feats, CHANNELS, 6)
    means = dense_means(coords, feats[:, CHANNELS], 6).view(-1, 3)[found.lattice]
    assert 0 < int(found.values.isnan().sum()) < found.values.numel()
    assert torch.equal(found.values.nan_to_num(9), means.nan_to_num(9))


def test_half_precision_is_summed_in_single_precision() -> None:
    coords, feats = objects(6, 0.5, 5)
    a, b = (surface_cubes(coords, kind, CHANNELS, 6) for kind in (feats.half(), feats.half().float()))
    assert a.values.dtype == torch.float32
    assert torch.equal(a.values, b.values)


def test_an_ambiguous_cube_depends_on_its_neighbour() -> None:
    """Cubes 0 and 2 face each other, 1 faces an unambiguous one, 3 the end of the grid, 4 a cube without a surface."""
    side = 4
    table = torch.zeros(256, 5, dtype=torch.long)
    table[1] = torch.tensor([1, 1, 0, 0, 101])
    table[2] = torch.tensor([1, -1, 0, 0, 102])
    table[4] = torch.tensor([1, 0, 1, 0, 104])
    table[8] = torch.tensor([1, 0, 0, -1, 108])
    places = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0], [2, 0, 0], [2, 2, 2], [0, 1, 1]])
    cases = torch.tensor([1, 4, 2, 8, 1, 3])
    cubes = (places * torch.tensor([side * side, side, 1])).sum(1)
    order = cubes.argsort()
    occupied = (cases[order, None] >> torch.arange(8) & 1).bool()
    got = torch.empty_like(cases)
    got[order] = settled_cases(occupied, table, cubes[order], side)
    assert got.tolist() == [101, 4, 102, 8, 1, 3]
