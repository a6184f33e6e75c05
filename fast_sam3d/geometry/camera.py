"""Pinhole camera. Pixel (row, column) has its centre at (u, v) = (column + 0.5, row + 0.5); u right, v down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy

NEAR = 1e-4  # camera units; closer points, and points behind the camera, are not rendered


@dataclass(frozen=True)
class Camera:
    """Pinhole camera in the PyTorch3D frame: +x left, +y up, +z forward, p_camera = p_world @ rotation + translation.

    Attributes:
        rotation: [3, 3]; its columns are the camera's left, up and forward axes in world coordinates.
        translation: [3].
        focal: pixels.
        principal: (u, v) in pixels.
        size: (height, width) in pixels.
    """

    rotation: np.ndarray
    translation: np.ndarray
    focal: float
    principal: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if np.shape(self.rotation) != (3, 3) or np.shape(self.translation) != (3,):
            shapes = f"{np.shape(self.rotation)} and {np.shape(self.translation)}"
            raise ValueError(f"rotation must be [3, 3] and translation [3], got {shapes}")
        if not self.focal > 0 or min(self.size) < 1:
            raise ValueError(f"focal and size must be positive, got {self.focal} and {self.size}")

    @classmethod
    def look_at(
        cls,
        eye: Sequence[float],
        target: Sequence[float] = (0.0, 0.0, 0.0),
        up: Sequence[float] = (0.0, 0.0, 1.0),
        fov_deg: float = 40.0,
        size: int = 256,
    ) -> Camera:
        """Square image from `eye` towards `target` with `up` upright; fov_deg is the full field of view."""
        position = np.asarray(eye, np.float64)
        forward = np.asarray(target, np.float64) - position
        if np.linalg.norm(forward) < 1e-12:
            raise ValueError(f"eye and target are the same point {tuple(eye)}")
        forward /= np.linalg.norm(forward)
        left = np.cross(np.asarray(up, np.float64), forward)
        if np.linalg.norm(left) < 1e-9:  # looking along up: any other axis
            left = np.cross([0.0, 1.0, 0.0] if abs(forward[1]) < 0.9 else [1.0, 0.0, 0.0], forward)
        left /= np.linalg.norm(left)
        rotation = np.stack([left, np.cross(forward, left), forward], axis=1)
        focal = 0.5 * size / math.tan(math.radians(fov_deg) / 2.0)
        return cls(rotation, -position @ rotation, focal, (size / 2.0, size / 2.0), (size, size))

    @classmethod
    def orbit(
        cls,
        azimuth_deg: float,
        elevation_deg: float = 20.0,
        distance: float = 2.0,
        target: Sequence[float] = (0.0, 0.0, 0.0),
        fov_deg: float = 40.0,
        size: int = 256,
    ) -> Camera:
        """On a sphere around `target`, +z up. Azimuth 0 is on the -y side with +x to the right; 90 is on +x."""
        azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
        offset = (
            math.sin(azimuth) * math.cos(elevation),
            -math.cos(azimuth) * math.cos(elevation),
            math.sin(elevation),
        )
        eye = [centre + distance * step for centre, step in zip(target, offset, strict=True)]
        return cls.look_at(eye, target, fov_deg=fov_deg, size=size)

    @classmethod
    def from_pointmap(cls, pointmap: Any) -> Camera:
        """The camera of a pointmap [H, W, 3] (camera frame, NaN where unknown), by least squares.

        Raises:
            ValueError: fewer than 16 known points in front of the camera, or no pinhole camera fits.
        """
        points = as_numpy(pointmap, np.float64)
        height, width = points.shape[:2]
        rows, columns = np.nonzero(np.isfinite(points).all(axis=2) & (np.nan_to_num(points[..., 2]) > NEAR))
        if len(rows) < 16:
            raise ValueError(f"only {len(rows)} known points in the pointmap, at least 16 are needed")
        slopes = -points[rows, columns, :2] / points[rows, columns, 2:]  # u = cx - f x / z, v = cy - f y / z
        pixels = np.stack([columns, rows], axis=1) + 0.5
        slope_mean, pixel_mean = slopes.mean(axis=0), pixels.mean(axis=0)
        spread = ((slopes - slope_mean) ** 2).sum()
        focal = ((slopes - slope_mean) * (pixels - pixel_mean)).sum() / spread if spread > 1e-12 else 0.0
        if not focal > 0:
            raise ValueError("no pinhole camera fits the pointmap; is it in the frame +x left, +y up, +z forward?")
        principal = pixel_mean - focal * slope_mean
        return cls(np.eye(3), np.zeros(3), float(focal), (float(principal[0]), float(principal[1])), (height, width))

    def resized(self, longest: int) -> Camera:
        """The same view with `longest` pixels on its longer side."""
        factor = longest / max(self.size)
        height, width = (max(1, round(side * factor)) for side in self.size)
        u, v = self.principal
        return replace(self, focal=self.focal * factor, principal=(u * factor, v * factor), size=(height, width))

    def cropped(self, left: float, top: float, height: int, width: int) -> Camera:
        """The window of height x width pixels with its corner at (left, top); it may extend outside the image."""
        u, v = self.principal
        return replace(self, principal=(u - left, v - top), size=(height, width))

    def project(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Project world points [N, 3] to pixels [N, 2] (u, v) and depth [N]; undefined where depth <= 0."""
        local = as_numpy(points, np.float64) @ self.rotation + self.translation
        depth = local[:, 2]
        safe = np.where(depth > NEAR, depth, 1.0)
        return np.asarray(self.principal) - self.focal * local[:, :2] / safe[:, None], depth
