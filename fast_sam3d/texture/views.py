"""Views of gaussians around a textured mesh, and where each of their pixels lies in the texture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.surface import TexturedMesh
from fast_sam3d.render.renderer import nearest_faces, render_gaussians

__all__ = ["View", "views_around"]

FIELD = 40.0
"""Degrees."""
OPAQUE = 0.9
"""Least opacity of a pixel whose colour is taken."""
FACING = 0.2
"""Least cosine between a face and the direction to the camera; flatter ones are seen better from elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The pixels of a view that show the surface.

    Args:
        uv: [P, 2] float32 in 0..1, the surface point of each pixel in the texture.
        rgb: [P, 3] float32 in 0..1, the gaussians' colour there.
    """

    uv: NDArray[np.float32]
    rgb: NDArray[np.float32]


def views_around(mesh: TexturedMesh, gaussians: GaussianCloud, count: int, size: int) -> Iterator[View]:
    """Views from directions spread evenly over the sphere; those without a pixel of the surface are left out.

    Args:
        count: of the views.
        size: pixels of a view's side.
    """
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    distance = radius / math.sin(math.radians(FIELD) / 2)
    for index in range(count):
        up = 1 - (2 * index + 1) / count
        turn = index * math.pi * (3 - math.sqrt(5))
        flat = math.sqrt(1 - up * up)
        eye = middle + distance * np.array([flat * math.cos(turn), flat * math.sin(turn), up])
        camera = Camera.look_at(tuple(eye), tuple(middle), fov_deg=FIELD, size=size)
        view = _view(mesh, gaussians, camera, eye)
        if len(view.uv):
            yield view


def _view(mesh: TexturedMesh, gaussians: GaussianCloud, camera: Camera, eye: NDArray[np.float64]) -> View:
    face, depth = nearest_faces(mesh.vertices, mesh.faces, camera)
    picture = render_gaussians(gaussians, camera, background=0.0)
    row, column = np.nonzero((face >= 0) & (picture.alpha >= OPAQUE))
    face, depth = face[row, column], depth[row, column]
    # The surface point of each pixel: camera coordinates from its depth, then the world's.
    slope = (np.asarray(camera.principal) - np.stack([column, row], -1) - 0.5) / camera.focal
    local = np.concatenate([slope, np.ones((len(row), 1))], -1) * depth[:, None]
    point = (local - camera.translation) @ camera.rotation.T
    corner = mesh.vertices[mesh.faces[face]].astype(np.float64)
    first, second, to = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], point - corner[:, 0]
    normal = np.cross(first, second)
    area = np.maximum((normal**2).sum(-1), 1e-30)
    ahead = ((eye - point) * normal).sum(-1)
    cosine = ahead / np.sqrt(area) / np.maximum(np.linalg.norm(eye - point, axis=-1), 1e-12)
    b = (np.cross(to, second) * normal).sum(-1) / area
    c = (np.cross(first, to) * normal).sum(-1) / area
    weight = np.clip(np.stack([1 - b - c, b, c], -1), 0, 1)
    weight /= np.maximum(weight.sum(-1, keepdims=True), 1e-12)
    uv = np.einsum("pk,pkc->pc", weight, mesh.uv[mesh.faces[face]].astype(np.float64))
    kept = cosine >= FACING
    alpha = picture.alpha[row, column][:, None]
    rgb = np.clip(picture.rgb[row, column] / np.maximum(alpha, 1e-3), 0, 1)
    return View(uv[kept].astype(np.float32), rgb[kept].astype(np.float32))
