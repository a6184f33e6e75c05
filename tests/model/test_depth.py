"""The pointmap guessed from a silhouette."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.model.depth import (
    ASSUMED_FOCAL,
    ASSUMED_SIZE_M,
    BULGE_M,
    SilhouetteDepth,
    ray_slopes,
    silhouette_points,
)
from fast_sam3d.model.preprocess import infer_focal


def disc(height: int, width: int, radius: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < radius**2


def guess(mask: np.ndarray) -> torch.Tensor:
    return SilhouetteDepth()(torch.zeros(3, *mask.shape), torch.from_numpy(mask).float())["pointmaps"]


def test_points_are_finite_on_the_mask_only_and_deterministic() -> None:
    mask = disc(48, 64, 15)
    points = guess(mask)
    assert points.shape == (48, 64, 3)
    assert points.dtype == torch.float32
    assert torch.equal(points.isfinite().all(-1), torch.from_numpy(mask))
    assert torch.equal(guess(mask).nan_to_num(), points.nan_to_num())


def test_middle_is_closer_to_the_camera() -> None:
    z = guess(disc(64, 64, 20))[..., 2]
    assert z[32, 32] < z[32, 20] < z[32, 13]
    rim = ASSUMED_SIZE_M / (39 / 64 / ASSUMED_FOCAL)  # 40 pixels wide, 39 between the outermost centres
    assert float(z[32, 32]) == pytest.approx(rim - BULGE_M, rel=0.02)


def test_size_is_constant_over_the_picture() -> None:
    mask = np.zeros((80, 100), bool)
    mask[50:75, 60:95] = True
    points = guess(mask)[torch.from_numpy(mask)]
    extent = (points[:, 0] / points[:, 2]).max() - (points[:, 0] / points[:, 2]).min()
    far = float(points[:, 2].max())
    assert float(extent) * far == pytest.approx(ASSUMED_SIZE_M, rel=0.1)


def test_camera_has_the_assumed_focal_length() -> None:
    assert infer_focal(guess(disc(48, 64, 20))) == pytest.approx(ASSUMED_FOCAL, rel=1e-3)
    x, y = ray_slopes(4, 8)
    assert (np.diff(x, axis=1) < 0).all(), "+x is left"
    assert (np.diff(y, axis=0) < 0).all(), "+y is up"


def test_empty_and_single_pixel_masks() -> None:
    x, y = ray_slopes(6, 6)
    mask = np.zeros((6, 6), bool)
    assert np.isnan(silhouette_points(mask, x, y)).all()
    mask[3, 3] = True
    assert np.isfinite(silhouette_points(mask, x, y)[3, 3]).all()
