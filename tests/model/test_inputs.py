"""Pictures, masks and pointmaps of every accepted type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.errors import InputError
from fast_sam3d.model.inputs import limit_size, match_size, merge_rgba, reduce_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
MASK = np.zeros((6, 8), bool)
MASK[2:4, 3:7] = True
RGBA = np.dstack([RGB, MASK.astype(np.uint8) * 255])


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (RGB, MASK),
        (RGB, MASK.astype(np.uint8)),
        (RGB, MASK[..., None].astype(np.float32)),
        (Image.fromarray(RGB), Image.fromarray(MASK.astype(np.uint8) * 255)),
        (RGBA, None),
        (Image.fromarray(RGBA), None),
        (np.dstack([RGB, np.full((6, 8), 9, np.uint8)]), MASK),
    ],
)
def test_every_input_type_gives_the_same_array(image, mask) -> None:
    merged = merge_rgba(image, mask)
    assert merged.dtype == np.uint8
    np.testing.assert_array_equal(merged, RGBA)


def test_grey_and_palette_pictures() -> None:
    grey = RGB[..., 0]
    np.testing.assert_array_equal(merge_rgba(grey, MASK)[..., :3], np.repeat(grey[..., None], 3, -1))
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(merge_rgba(palette, MASK)[..., :3], np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (RGB, None, "no mask"),
        (RGB, MASK & False, "empty"),
        (RGB, MASK | True, "whole picture"),
        (RGB, MASK[:-1], "size"),
        (RGB / 255, MASK, "uint8"),
        (RGB[..., :2], MASK, "uint8"),
    ],
)
def test_invalid_inputs_are_refused(image, mask, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_rgba(image, mask)


def test_large_pictures_shrink_by_a_whole_factor() -> None:
    assert limit_size(RGBA, 8) is RGBA
    small = limit_size(RGBA, 4)
    assert small.shape == (3, 4, 4)
    expected = RGB.reshape(3, 2, 4, 2, 3).astype(float).mean((1, 3))
    assert np.abs(small[..., :3] - expected).max() <= 0.5
    np.testing.assert_array_equal(small[..., 3] > 0, MASK.reshape(3, 2, 4, 2).any((1, 3)))
    assert limit_size(RGBA, 3).shape == (2, 2, 4)


@pytest.mark.parametrize(("height", "width"), [(9, 21000), (21000, 9), (1, 4097), (2047, 2049)])
def test_a_side_shorter_than_the_factor_becomes_one_pixel(height: int, width: int) -> None:
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[height // 2, width // 2] = 255
    small = limit_size(rgba)
    factor = -(-max(height, width) // 2048)
    assert small.shape == (max(height // factor, 1), max(width // factor, 1), 4)
    assert (small[..., 3] > 0).sum() == 1


def test_reduction_by_strips_equals_reduction_at_once() -> None:
    rgb, mask = reduce_picture(RGB, MASK, 4)
    small = limit_size(RGBA, 4)
    np.testing.assert_array_equal(rgb, small[..., :3])
    np.testing.assert_array_equal(mask, small[..., 3] > 0)
    assert mask.dtype == bool
    assert reduce_picture(RGB, MASK, 8)[1] is MASK


def test_pointmaps_are_reduced_with_the_picture() -> None:
    points = torch.arange(4 * 6 * 3, dtype=torch.float32).reshape(4, 6, 3)
    assert torch.equal(match_size(points.numpy(), 4, 6), points)
    assert torch.equal(match_size(points, 2, 3), points[1::2, 1::2])
    assert torch.equal(match_size(points, 8, 12)[::2, 1::2], points)
    points[1, 2, 0] = torch.inf
    assert match_size(points, 4, 6)[1, 2].isnan().all()
    with pytest.raises(InputError, match="from that picture"):
        match_size(points, 6, 4)
    with pytest.raises(InputError, match="height, width, 3"):
        match_size(points[..., 0], 4, 6)
