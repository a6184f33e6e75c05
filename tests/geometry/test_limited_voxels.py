"""Limits of the number of voxels."""

from __future__ import annotations

import itertools

import torch

from fast_sam3d.geometry.sparse_grid import limited_voxels


def test_too_many_voxels_are_merged_around_the_middle_of_their_box() -> None:
    cube = torch.cartesian_prod(*[torch.arange(8, dtype=torch.int32)] * 3)
    coords = torch.cat([torch.zeros(512, 1, dtype=torch.int32), cube + 4], dim=1)
    assert limited_voxels(coords, most=512) == (coords, 1)
    merged, factor = limited_voxels(coords, most=511)
    assert factor == 2 and merged.dtype == torch.int32
    assert merged.tolist() == [[0, *place] for place in itertools.product(range(6, 10), repeat=3)]


def test_of_merged_voxels_that_are_still_too_many_some_are_drawn() -> None:
    coords = torch.cat([torch.zeros(1000, 1, dtype=torch.int32), torch.randint(64, (1000, 3)).int()], dim=1)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(limited_voxels(coords, most=100)[0])
    assert [len(drawn) for drawn in draws] == [100] * 3
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
