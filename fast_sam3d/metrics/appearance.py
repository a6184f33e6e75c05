"""Appearance: PSNR and SSIM between renderings from fixed views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.render.renderer import MeshRenderer, render_gaussians

VIEWS: tuple[tuple[float, float], ...] = ((0.0, 20.0), (90.0, 20.0), (180.0, 20.0), (270.0, -20.0))
"""(azimuth, elevation) in degrees around the canonical cube, +z up."""
VIEW_PX = 128
DISTANCE, FOV_DEG = 2.2, 40.0
"""Canonical units from the centre of the cube, and full field of view: the whole cube is in every view."""
PSNR_MAX = 100.0  # dB; the value for equal pictures, where PSNR is infinite
SSIM_SIGMA_PX = 1.5


def view_cameras(views: Sequence[tuple[float, float]] = VIEWS, pixels: int = VIEW_PX) -> list[Camera]:
    """The fixed cameras. They do not adapt to the object, so that differences in size are visible."""
    return [Camera.orbit(azimuth, elevation, DISTANCE, fov_deg=FOV_DEG, size=pixels) for azimuth, elevation in views]


def render_views(thing: Any, cameras: Sequence[Camera] | None = None) -> np.ndarray:
    """[V, H, W, 3] float32 renderings in 0..1 on white, from `view_cameras` by default.

    Args:
        thing: gaussians (as `geometry.gaussians.GaussianCloud`), or a mesh with vertices [V, 3], faces [F, 3]
            and optionally vertex_attrs [V, >= 3], whose first three channels are rgb in 0..1.
    """
    cameras = view_cameras() if cameras is None else cameras
    if hasattr(thing, "get_xyz"):
        return np.stack([render_gaussians(thing, camera).rgb for camera in cameras])
    colours = getattr(thing, "vertex_attrs", None)
    rgb = None if colours is None else as_numpy(colours)[:, :3]
    drawing = MeshRenderer(thing.vertices, thing.faces, rgb)
    return np.stack([drawing(camera).rgb for camera in cameras])


def psnr(pictures: Any, truth: Any) -> float:
    """Peak signal-to-noise ratio in dB, at most `PSNR_MAX`, from the mean squared error over all pixels and views.

    Args:
        pictures, truth: [..., H, W, 3] in 0..1, from equal views; background pixels are included.

    Raises:
        ValueError: pictures of different shape.
    """
    first, second = _alike(pictures, truth)
    error = float(((first - second) ** 2).mean())
    return PSNR_MAX if error <= 10.0 ** (-PSNR_MAX / 10.0) else -10.0 * float(np.log10(error))


def ssim(pictures: Any, truth: Any) -> float:
    """Structural similarity, mean over views and channels, in -1..1.

    Gaussian window with sigma 1.5 pixels truncated to 11 x 11, population covariance, K1 = 0.01, K2 = 0.03, data range
    1 (Wang et al., 2004), by scikit-image.

    Args:
        pictures, truth: [H, W, 3] or [V, H, W, 3] in 0..1, at least 11 pixels a side.

    Raises:
        ValueError: pictures of different shape, or too small.
    """
    from skimage.metrics import structural_similarity

    first, second = _alike(pictures, truth)
    first, second = (item.reshape(-1, *item.shape[-3:]) for item in (first, second))
    return float(
        np.mean(
            [
                structural_similarity(
                    a, b, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=SSIM_SIGMA_PX,
                    use_sample_covariance=False,
                )
                for a, b in zip(first, second, strict=True)
            ]
        )
    )  # fmt: skip


def _alike(pictures: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = as_numpy(pictures, np.float64), as_numpy(truth, np.float64)
    if first.shape != second.shape or first.ndim < 3 or first.shape[-1] != 3:
        raise ValueError(f"pictures of shape {first.shape} and {second.shape}: both must be [..., H, W, 3]")
    return first, second
