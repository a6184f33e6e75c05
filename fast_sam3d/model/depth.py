"""A pointmap guessed from a silhouette: the fallback when no depth is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

ASSUMED_SIZE_M = 1.0  # metres along the longer side of the mask's box
ASSUMED_FOCAL = 1.2  # focal length over the longer image side
BULGE_M = 0.35  # metres by which the middle of the silhouette bulges towards the camera


def silhouette_points(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pointmap of a bulging silhouette.

    Args:
        mask: [H, W] bool, the object's visible pixels.
        x: [H, W] float, horizontal ray slope of each pixel, +x left (PyTorch3D camera), at `ASSUMED_FOCAL`.
        y: [H, W] float, vertical ray slope, +y up.

    Returns:
        [H, W, 3] float32 in metres, NaN outside the mask.
    """
    from scipy.ndimage import distance_transform_edt

    points = np.full((*mask.shape, 3), np.nan, np.float32)
    if not mask.any():
        return points
    extent = max(np.ptp(x[mask]), np.ptp(y[mask]), 1e-3)
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    depth = ASSUMED_SIZE_M / extent - BULGE_M * np.sqrt(inside / inside.max())
    depth = np.maximum(depth, 0.1)
    points[mask] = np.stack([x * depth, y * depth, depth], -1)[mask]
    return points


def ray_slopes(height: int, width: int, focal: float = ASSUMED_FOCAL) -> tuple[np.ndarray, np.ndarray]:
    """Ray slopes [H, W] (+x left, +y up) of the pixel centres of an image; focal in units of its longer side."""
    longer = max(height, width)
    v, u = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    return -(u - width / 2) / (longer * focal), -(v - height / 2) / (longer * focal)


@dataclass(frozen=True)
class SilhouetteDepth:
    """Takes the place of the stock pipeline's depth model; deterministic, uses nothing but the mask."""

    built_in_savings = ("images",)

    def __call__(self, image: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Guess a pointmap.

        Args:
            image: [3, H, W], only its size is used.
            mask: [H, W], above 0.5 on the object.

        Returns:
            `pointmaps` [H, W, 3] float32, metres, PyTorch3D camera frame, NaN off the object.
        """
        height, width = image.shape[-2:]
        x, y = ray_slopes(height, width)
        points = silhouette_points(mask.detach().cpu().numpy() > 0.5, x, y)
        return {"pointmaps": torch.from_numpy(points)}
