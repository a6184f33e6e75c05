"""Whole pictures of objects, for the evaluation and the bundled examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.families import Sampled, sample_object
from fast_sam3d.mini.data.samples import RESOLUTION, Shape, voxelise


@dataclass(frozen=True)
class Placed:
    """An object before a camera."""

    sampled: Sampled
    camera: views.ViewCamera


@dataclass(frozen=True)
class Photo:
    """A rendered picture. rgb [H, W, 3] uint8; label [H, W] int, index of the visible object or -1; points [H, W, 3]
    float32, metres, PyTorch3D camera frame, NaN in empty space; the objects in it."""

    rgb: np.ndarray
    label: np.ndarray
    points: np.ndarray
    placed: tuple[Placed, ...]

    def mask(self, index: int = 0) -> np.ndarray:
        """[H, W] bool, the visible pixels of one object."""
        return self.label == index


def image_grid(height: int, width: int) -> np.ndarray:
    """Image coordinates [H * W, 2] of all pixels."""
    v, u = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    return np.stack([u - width / 2, v - height / 2], -1).reshape(-1, 2) / max(height, width)


def take(placed: tuple[Placed, ...], backdrop: views.Backdrop, occluder: views.Occluder | None, height: int,
         width: int) -> Photo:  # fmt: skip
    """Render objects with occlusion; floor and occluder belong to the first one."""
    uv = image_grid(height, width)
    first, *others = placed
    picture = views.render(first.sampled, first.camera, backdrop, occluder, uv)
    rgb, points = picture.rgb, picture.points
    label = np.where(picture.mask, 0, -1)
    no_floor = views.Backdrop(backdrop.high, backdrop.low, False)
    for index, other in enumerate(others, 1):
        layer = views.render(other.sampled, other.camera, no_floor, None, uv)
        front = layer.mask & ~(points[:, 2] < layer.points[:, 2])
        rgb[front], points[front], label[front] = layer.rgb[front], layer.points[front], index
    image = np.round(rgb * 255).astype(np.uint8).reshape(height, width, 3)
    return Photo(image, label.reshape(height, width), points.reshape(height, width, 3), tuple(placed))


def outline(sampled: Sampled, camera: views.ViewCamera, shape: Shape) -> np.ndarray:
    """Image coordinates [P, 2] of points on an object's surface."""
    centres = (shape.coords.astype(np.float32) + 0.5) / RESOLUTION - 0.5
    surface = centres - sampled.solid.normal(centres) * sampled.solid.distance(centres)[:, None]
    return camera.project(surface)


def photograph(seed: int, pixels: int = 256, occlude: float = 0.4) -> tuple[Photo, Shape]:
    """One object of the evaluation: a square picture from a random camera, and its true voxels.

    Args:
        seed: of the object and of the camera.
        pixels: side of the picture.
        occlude: probability of an occluder.
    """
    sampled = sample_object(seed)
    shape = voxelise(sampled)
    rng = np.random.default_rng([20260213, seed])
    while True:
        camera = views.sample_camera(rng, sampled.symmetry)
        points = outline(sampled, camera, shape)
        occluder = views.sample_occluder(rng, points) if rng.random() < occlude else None
        photo = take((Placed(sampled, camera),), views.Backdrop.sample(rng), occluder, pixels, pixels)
        if photo.mask().sum() >= 150:
            return photo, shape
