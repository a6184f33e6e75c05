"""Image metrics against explicit formulas and visible changes."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.ndimage import gaussian_filter

from fast_sam3d import metrics
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.metrics.appearance import PSNR_MAX, render_views


def cloud(colour=(0.9, 0.2, 0.1), shift=0.0, count=60) -> GaussianCloud:
    random = np.random.default_rng(0)
    xyz = random.uniform(-0.4, 0.4, (count, 3)) + np.array([shift, 0, 0])
    return GaussianCloud(
        xyz.astype(np.float32),
        np.full((count, 3), 0.05, np.float32),
        np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        np.full((count, 1), 0.9, np.float32),
        np.tile(((np.float32(colour) - 0.5) / 0.28209479)[None, None], (count, 1, 1)),
    )


def test_psnr_by_hand():
    black = np.zeros((4, 4, 3))
    assert metrics.psnr(black + 0.1, black) == pytest.approx(20.0)
    half = black.copy()
    half[:2] = 0.1
    assert metrics.psnr(half, black) == pytest.approx(20.0 + 10 * np.log10(2))
    assert metrics.psnr(black, black) == PSNR_MAX and metrics.psnr(black + 1e-9, black) == PSNR_MAX
    with pytest.raises(ValueError, match="shape"):
        metrics.psnr(black, black[:2])


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. (2004), equation 13, of one channel; the mean leaves the window's margin out."""

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    ratio = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(ratio[5:-5, 5:-5].mean())


def test_ssim_against_the_formula():
    random = np.random.default_rng(1)
    first = random.random((24, 30, 3))
    second = np.clip(first + 0.2 * random.standard_normal(first.shape), 0, 1)
    expected = np.mean([slow_ssim(first[..., k], second[..., k]) for k in range(3)])
    assert metrics.ssim(first, second) == pytest.approx(expected, abs=1e-6)
    both = metrics.ssim(np.stack([first, first]), np.stack([second, first]))
    assert both == pytest.approx((expected + 1) / 2, abs=1e-6)


def compare_views(first, second):
    pictures, others = render_views(first), render_views(second)
    return {"psnr": metrics.psnr(pictures, others), "ssim": metrics.ssim(pictures, others)}


def test_views_see_the_whole_cube_from_every_side():
    cube = trimesh.creation.box((0.98, 0.98, 0.98))
    pictures = render_views(cube)
    assert pictures.shape == (4, 128, 128, 3)
    border = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1)
    assert (border == 1.0).all(), "nothing is cut off"
    assert ((pictures < 0.99).any(-1).mean(axis=(1, 2)) > 0.2).all()


def test_a_shift_and_a_colour_change_both_lower_the_scores():
    same = compare_views(cloud(), cloud())
    assert same == {"psnr": PSNR_MAX, "ssim": pytest.approx(1.0)}
    near, far = (compare_views(cloud(shift=shift), cloud()) for shift in (0.01, 0.1))
    assert far["psnr"] < near["psnr"] < same["psnr"] and far["ssim"] < near["ssim"] < 1
    assert compare_views(cloud((0.1, 0.2, 0.9)), cloud())["psnr"] < 25
