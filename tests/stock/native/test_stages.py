"""Small steps between the networks, against the stock functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.geometry.sparse_grid import MAX_VOXELS, limited_voxels, surface_voxels
from fast_sam3d.model.common import picture_colours
from fast_sam3d.native.stages import reduced
from tests.stock.stand_ins import importable


def test_colours_are_the_same_for_all_values() -> None:
    with importable():
        from sam3d_objects.pipeline.inference_pipeline import InferencePipeline
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    stock = torch.from_numpy(InferencePipeline.image_to_float(None, ramp)).permute(2, 0, 1)
    assert torch.equal(picture_colours(ramp), stock)


@pytest.mark.parametrize("width", [40, 1200, 1201, 1900, 1901, 3801])
def test_large_maps_are_reduced_as_in_stock(width: int) -> None:
    with importable():
        from sam3d_objects.pipeline.inference_pipeline_pointmap import InferencePipelinePointMap
    points = torch.randn(3, 24, width, generator=torch.Generator().manual_seed(0))
    points[:, :5, 7:9] = torch.nan
    stock = InferencePipelinePointMap._down_sample_img(points)
    assert torch.equal(reduced(points).nan_to_num(7.0), stock.nan_to_num(7.0))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_voxels_are_dropped_as_in_stock(share: float) -> None:
    with importable():
        from sam3d_objects.pipeline.inference_utils import prune_sparse_structure
    occupied = torch.rand(1, 20, 24, 16, generator=torch.Generator().manual_seed(1)) < share
    coords = torch.argwhere(occupied).int() + torch.tensor([0, 3, 40, 48]).int()
    assert torch.equal(surface_voxels(coords, 64, 1), prune_sparse_structure(coords, max_neighbor_axes_dist=1))


@pytest.mark.parametrize("most", [MAX_VOXELS, 4000])
def test_too_many_voxels_are_merged_as_in_stock(most: int) -> None:
    with importable():
        from sam3d_objects.pipeline.inference_utils import downsample_sparse_structure
    occupied = torch.rand(1, 51, 64, 38, generator=torch.Generator().manual_seed(2)) < 0.6
    coords = torch.argwhere(occupied).int() + torch.tensor([0, 5, 0, 11]).int()
    torch.manual_seed(3)
    stock = downsample_sparse_structure(coords, max_coords=most)
    torch.manual_seed(3)
    ours, factor = limited_voxels(coords, most)
    assert factor == stock[1] == 2
    assert torch.equal(ours, stock[0]) and len(ours) <= most and ours.dtype == torch.int32
