"""Crops at inference against the crops of training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.errors import InputError
from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.families import sample_object
from fast_sam3d.model.pose import normalise_pointmap
from fast_sam3d.model.preprocess import CropPreprocessor, crop_box, crop_condition, crop_grid, describe, infer_focal


def scene(height: int = 160, width: int = 224, seed: int = 5):
    """A rendered picture [height, width] of a training object, its camera, and the inputs of its rendering."""
    rng = np.random.default_rng(seed)
    sampled = sample_object(seed, "chair")
    camera = views.sample_camera(rng, sampled.symmetry)
    backdrop = views.Backdrop.sample(rng)
    longer = max(height, width)
    v, u = np.mgrid[:height, :width].astype(np.float32) + 0.5
    uv = np.stack([u - width / 2, v - height / 2], -1).reshape(-1, 2) / longer
    picture = views.render(sampled, camera, backdrop, None, uv.astype(np.float32))
    rgb = np.round(picture.rgb * 255).astype(np.uint8).reshape(height, width, 3)
    mask, points = picture.mask.reshape(height, width), picture.points.reshape(height, width, 3)
    return sampled, camera, backdrop, rgb, mask, points


def test_crop_equals_the_training_crop_of_the_same_view() -> None:
    sampled, camera, backdrop, rgb, mask, points = scene()
    got = crop_condition(rgb, mask, points)

    rows, columns = np.nonzero(mask)
    corners = np.stack([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]) - (224 / 2, 160 / 2)
    centre, side = crop_box((corners / 224).astype(np.float32))
    true = views.render(sampled, camera, backdrop, None, crop_grid(centre, side, 64))
    true_mask = true.mask.reshape(64, 64)
    true_points = torch.from_numpy(true.points.reshape(64, 64, 3))
    pointmap, scale, shift = normalise_pointmap(true_points, torch.from_numpy(true_mask))

    got_mask = got.mask[0].numpy() > 0
    assert (got_mask & true_mask).sum() / (got_mask | true_mask).sum() > 0.9
    both = got_mask & true_mask
    colour = np.abs(got.image.permute(1, 2, 0).numpy() - true.rgb.reshape(64, 64, 3))
    assert np.median(colour[both]) < 0.02
    assert np.median(colour[~got_mask & ~true_mask]) < 0.02
    assert np.median(np.abs(got.pointmap.permute(1, 2, 0).numpy() - pointmap.numpy())[both]) < 0.05
    torch.testing.assert_close(got.scene_scale, scale, rtol=0.05, atol=0)
    torch.testing.assert_close(got.scene_shift, shift, rtol=0.05, atol=0.02)
    expected = describe(centre * 2, side, true_mask.mean(), camera.focal, True, float(scale), float(shift[2]))
    np.testing.assert_allclose(got.descriptor.numpy(), expected, rtol=0.05, atol=0.05)


def test_shapes_ranges_and_unknown_points() -> None:
    *_, rgb, mask, points = scene()
    first = int(np.nonzero(mask)[0].min())
    points[: first + 5] = np.nan
    crop = CropPreprocessor(32)(rgb, mask, points, guessed=True)
    assert crop.image.shape == (3, 32, 32)
    assert crop.mask.shape == (1, 32, 32)
    assert crop.pointmap.shape == (3, 32, 32)
    for values in (crop.image, crop.mask, crop.pointmap, crop.descriptor):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    assert crop.image.min() >= 0
    assert crop.image.max() <= 1
    assert set(crop.mask.unique().tolist()) == {0.0, 1.0}
    assert crop.pointmap.abs().max() <= 4
    assert crop.descriptor[4] == 0, "a guessed pointmap has no focal length"
    assert crop.descriptor[5] == 0
    assert not crop.pointmap[:, 0].any(), "unknown rows are zero"


def test_crop_beyond_the_border_is_unknown_background() -> None:
    rgb = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[:, :20] = True
    points = np.ones((40, 60, 3), np.float32) * (0, 0, 5) + np.random.default_rng(0).normal(size=(40, 60, 3)) * 0.1
    crop = crop_condition(rgb, mask, points.astype(np.float32))
    # The box is 40 pixels high and wide plus 4 on each side: rows above 0 and below 40 are beyond the border.
    assert not crop.mask[0, :5].any()
    assert not crop.pointmap[:, :5].any()
    assert not crop.mask[0, :, :10].any()
    torch.testing.assert_close(crop.image, torch.full((3, 64, 64), 200 / 255))


def test_outlines_are_not_blended() -> None:
    rgb = np.zeros((300, 300, 3), np.uint8)
    y, x = np.mgrid[:300, :300]
    mask = (y - 150) ** 2 + (x - 140) ** 2 < 100**2
    rgb[mask] = (255, 0, 0)
    rgb[~mask] = (0, 0, 255)
    crop = crop_condition(rgb, mask, np.dstack([x, y, x + 300.0]).astype(np.float32))
    torch.testing.assert_close(crop.image[0], crop.mask[0])
    torch.testing.assert_close(crop.image[2], 1 - crop.mask[0])


def test_colours_are_averaged_over_the_footprint() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    mask = np.zeros((512, 512), bool)
    mask[50:450, 50:450] = True
    crop = crop_condition(rgb, mask, np.ones((512, 512, 3), np.float32))
    assert crop.image.std() < 0.06  # 0.29 for single samples


def test_thin_object_stays_visible() -> None:
    rgb = np.full((400, 400, 3), 10, np.uint8)
    mask = np.zeros((400, 400), bool)
    mask[20:380, 203] = True
    crop = crop_condition(rgb, mask, np.random.default_rng(0).normal(5, 1, (400, 400, 3)).astype(np.float32))
    assert crop.mask.sum() >= 24


def test_invalid_inputs_are_refused() -> None:
    *_, rgb, mask, points = scene()
    with pytest.raises(InputError, match="differ in size"):
        crop_condition(rgb, mask[:-1], points)
    with pytest.raises(InputError, match="mask is empty"):
        crop_condition(rgb, mask & False, points)
    with pytest.raises(InputError, match="no finite point"):
        crop_condition(rgb, mask, points * np.nan)
    lonely = points * np.nan
    row, column = (axis[-1] for axis in np.nonzero(mask))
    lonely[row, column] = 1.0
    with pytest.raises(InputError, match="too few points"):
        crop_condition(rgb, mask, lonely, out=4)


@pytest.mark.parametrize("focal", [0.8, 1.7])
def test_focal_length_is_estimated_from_the_points(focal: float) -> None:
    height, width = 120, 200
    v, u = np.mgrid[:height, :width] + 0.5
    z = 2 + np.random.default_rng(0).random((height, width))
    x, y = -(u - width / 2) / width / focal * z, -(v - height / 2) / width / focal * z
    points = np.dstack([x, y, z]).astype(np.float32)
    points[::3] = np.nan
    assert infer_focal(points) == pytest.approx(focal, rel=1e-4)
    assert infer_focal(np.full((8, 8, 3), np.nan, np.float32)) == 0
