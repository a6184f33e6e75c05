"""Routing, merging and scaling back, on plain tensors."""

from __future__ import annotations

import itertools
from math import ceil, floor
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.decode.aggregate import FACTORS, MeshMethod, build_mesh_method, max_pool, mean_pool, merge, unmerged
from fast_sam3d.errors import ConfigError

R = 16


def block(*sizes: int, at: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    grid = torch.argwhere(torch.ones(sizes)).int() + torch.tensor(at, dtype=torch.int32)
    return torch.cat([torch.zeros(len(grid), 1, dtype=torch.int32), grid], 1)


def test_higher_ratios_merge_less() -> None:
    method = MeshMethod()
    assert [method.factor(ratio, 5000) for ratio in (0.0, 0.49, 0.5, 0.69, 0.7, 1.0)] == [2, 2, 1.5, 1.5, 1.25, 1.25]
    assert method.factor(None, 5000) == 1
    assert (method.factor(0.1, 511), method.factor(0.1, 512)) == (1, 2)
    trellis = MeshMethod(threshold_low=0.3, threshold_high=0.55, factors=(1.0, 1.5, 1.25), crowded=42_000)
    assert [trellis.factor(ratio, 5000) for ratio in (0.29, 0.3, 0.54, 0.55)] == [1, 1.5, 1.5, 1.25]
    assert [trellis.factor(ratio, 42_000) for ratio in (0.1, None)] == [2, 2]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"were": "decoder"}, r"mesh\.were is unknown: did you mean 'where'"),
        ({"where": "decodr"}, r"mesh\.where is 'decodr': did you mean 'decoder'"),
        ({"weight": 1.5}, r"mesh\.weight is 1\.5: give a number from 0 to 1"),
        ({"threshold_low": 0.8}, r"mesh\.threshold_low is 0\.8, above threshold_high, 0\.7: swap them"),
        ({"factors": [1.25, 1.5, 2.0]}, r"mesh\.factors is .*the greatest first"),
        ({"factors": [3.0, 2.0, 1.0]}, r"mesh\.factors is .*1, 1\.25, 1\.5, 2"),
        ({"factors": 2.0}, r"mesh\.factors is 2\.0"),
        ({"min_voxels": -1}, r"mesh\.min_voxels is -1"),
        ([1], r"mesh is \[1\]: give a mapping"),
    ],
)
def test_invalid_settings_are_refused(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_mesh_method(mapping)


def test_settings_build_the_same_method() -> None:
    method = build_mesh_method({"factors": [2, 2, 1], "weight": 0.5})
    assert build_mesh_method(method.settings()) == method


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("centre", [0.0, R / 2])
def test_bins_against_a_slow_reference(factor: float, centre: float) -> None:
    generator = torch.Generator().manual_seed(0)
    coords = torch.unique(torch.randint(0, R, (200, 4), generator=generator).int() % torch.tensor([2, R, R, R]), dim=0)
    coords = coords.int()
    feats = torch.randn(len(coords), 3, generator=generator)
    bins, index = merge(coords, factor, centre)
    pooled, mean = max_pool(feats, index, len(bins)), mean_pool(feats, index, len(bins))
    expected: dict[tuple[int, ...], list[Tensor]] = {}
    for row, feat in zip(coords.tolist(), feats, strict=True):
        q = [floor((p + 0.5 - centre) / factor + centre) for p in row[1:]]
        expected.setdefault((row[0], *q), []).append(feat)
    assert [tuple(row) for row in bins.tolist()] == sorted(expected)
    for row, greatest, middle in zip(bins.tolist(), pooled, mean, strict=True):
        assert torch.equal(greatest, torch.stack(expected[tuple(row)]).amax(0))
        torch.testing.assert_close(middle, torch.stack(expected[tuple(row)]).mean(0))
    assert bins.dtype == coords.dtype
    assert bins[:, 1:].min() >= 0 and bins[:, 1:].max() < R


def test_factor_one_is_identity() -> None:
    coords = block(3, 2, 2)[torch.tensor([5, 1, 2, 0, 3, 4])]
    bins, index = merge(coords, 1.0)
    assert bins is coords and index.tolist() == list(range(6))


@pytest.mark.parametrize("factor", FACTORS)
def test_block_shrinks_by_the_cube_of_the_factor(factor: float) -> None:
    bins, _ = merge(block(R, R, R), factor)
    assert len(bins) == ceil(R / factor) ** 3


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("centre", [0.0, R / 2])
def test_thin_slabs_keep_their_thickness(factor: float, centre: float) -> None:
    """One to three voxels thick, anywhere: never lost or split, and no more than half a voxel off on either side."""
    for thick, at in itertools.product((1, 2, 3), range(R - 3)):
        bins, _ = merge(block(8, 8, thick, at=(4, 4, at)), factor, centre)
        layers = torch.unique(bins[:, 3])
        assert len(layers) >= 1
        low = (float(layers.min()) - centre) * factor + centre
        high = (float(layers.max()) + 1 - centre) * factor + centre
        assert low <= at + 0.5 and high >= at + thick - 0.5
        assert high - low <= thick - 1 + 2 * factor
        assert torch.equal(layers, torch.arange(int(layers.min()), int(layers.max()) + 1, dtype=layers.dtype))


@pytest.mark.parametrize("factor", FACTORS)
def test_vertices_are_scaled_back_to_their_voxels(factor: float) -> None:
    """The corners of each bin, decoded as a voxel, enclose the middles of the bin's voxels."""
    coords = block(R, 1, 1)
    bins, index = merge(coords, factor)
    middle = (coords[:, 1].double() + 0.5) / R - 0.5
    bin_of = bins[index][:, 1].double()
    low = unmerged(bin_of / R - 0.5, factor)
    high = unmerged((bin_of + 1) / R - 0.5, factor)
    assert (low <= middle + 1e-9).all() and (middle < high).all()


def test_pooling_in_half_precision() -> None:
    feats = torch.tensor([[1.0, -2.0], [3.0, -4.0], [0.5, 7.0]]).half()
    pooled = max_pool(feats, torch.tensor([0, 0, 1]), 2)
    assert pooled.dtype == torch.float16
    assert pooled.tolist() == [[3.0, -2.0], [0.5, 7.0]]
    mean = mean_pool(feats, torch.tensor([0, 0, 1]), 2)
    assert mean.dtype == torch.float16 and mean.tolist() == [[2.0, -3.0], [0.5, 7.0]]
