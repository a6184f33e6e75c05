"""What the hooks of token aggregation measure and hand on, without a pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.decode.hooks import aggregate_voxels, record_image
from fast_sam3d.decode.spectrum import picture_ratio, shape_ratio
from fast_sam3d.sampling.exchange import Exchange

ALWAYS_2 = MeshMethod(where="voxels", factors=(2.0, 2.0, 2.0), min_voxels=0)
BLOCK = torch.argwhere(torch.ones(1, 4, 4, 4)).int()


def rgba() -> torch.Tensor:
    """[48, 48, 4] uint8: noise of another strength in each colour, and a mask that covers less than any of them."""
    picture = torch.randint(1, 255, (48, 48, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture[..., 0] //= 16
    picture[..., 1] //= 4
    picture[..., 3] = 0
    picture[10:30, 5:40, 3] = 255
    return picture


def grid_of_8() -> Exchange:
    return Exchange(occupancy=torch.zeros(1, 8, 8, 8))


@pytest.mark.parametrize("by_name", [False, True])
def test_the_ratio_is_that_of_the_recorded_colours_inside_the_alpha_channel(by_name: bool) -> None:
    scene, image = Exchange(), rgba().numpy()
    sent = ((), {"image": image}) if by_name else ((image, "a preprocessor"), {})
    received = record_image(scene, lambda *args, **kwargs: (args, kwargs), *sent[0], **sent[1])
    assert received == sent
    aggregate_voxels(ALWAYS_2, scene, lambda: {"coords": BLOCK})
    (record,) = scene.records
    colours, mask = rgba()[..., :3], rgba()[..., 3]
    assert record.picture == picture_ratio(colours, mask) != picture_ratio(colours, torch.ones_like(mask))
    assert record.shape == shape_ratio(BLOCK[:, 1:], 4)
    assert (record.factor, record.voxels, record.kept) == (2.0, 64, 8)


@pytest.mark.parametrize(("given", "expected"), [({}, 2.0), ({"downsample_factor": 2}, 4.0)])
def test_merging_multiplies_the_factor_of_a_pipeline_that_has_one(given: dict[str, Any], expected: float) -> None:
    result = aggregate_voxels(ALWAYS_2, grid_of_8(), lambda: {"coords": BLOCK, "pose": "kept", **given})
    assert result["downsample_factor"] == expected and result["pose"] == "kept"


def test_no_voxels_are_returned_as_they_are() -> None:
    scene = grid_of_8()
    result = aggregate_voxels(ALWAYS_2, scene, lambda: {"coords": BLOCK[:0]})
    assert not len(result["coords"]) and "downsample_factor" not in result
    assert scene.records[0].factor == 1 and scene.records[0].shape is None


def test_voxels_are_merged_about_the_middle_of_the_grid() -> None:
    """Of two voxels on either side of the middle of 8 each remains at its side, and one at the rim moves in."""
    scene = grid_of_8()
    coords = torch.tensor([[0, 3, 3, 3], [0, 4, 4, 4], [0, 7, 0, 7]], dtype=torch.int32)
    result = aggregate_voxels(ALWAYS_2, scene, lambda: {"coords": coords})
    assert result["coords"].tolist() == [[0, 3, 3, 3], [0, 4, 4, 4], [0, 5, 2, 5]]
