"""Meshes with more vertices than an image has pixels, reduced to the faces that may be visible in it."""

from __future__ import annotations

import threading

import numpy as np

from fast_sam3d.geometry.camera import NEAR, Camera
from fast_sam3d.render.renderer import WHITE, Color, MeshImage, MeshRenderer

__all__ = ["CROWDED", "AnyMeshRenderer", "maybe_visible"]

CROWDED = 2
"""Vertices per pixel from which it pays off to look for hidden ones."""
SLACK_PX = 2.0
"""A vertex this much deeper than those around its pixel still counts as visible; in pixels at the mean depth."""


class AnyMeshRenderer:
    """A `MeshRenderer` for meshes of any size: draws only what may be visible where there is more than pixels.

    Args:
        vertices: [V, 3]. faces: [F, 3]. colors: [V, 3] rgb in 0..1, or None for grey.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None) -> None:
        self._mesh = vertices, faces, colors
        self._whole: MeshRenderer | None = None
        self._lock = threading.Lock()  # views are drawn in threads

    def __call__(self, camera: Camera, background: Color = WHITE, lit: bool = True) -> MeshImage:
        """See `MeshRenderer`."""
        vertices, faces, colors = self._mesh
        if len(vertices) < CROWDED * camera.size[0] * camera.size[1]:
            with self._lock:
                self._whole = self._whole or MeshRenderer(vertices, faces, colors)
            return self._whole(camera, background=background, lit=lit)
        some, between = maybe_visible(vertices, faces, camera)
        tint = None if colors is None else colors[some]
        return MeshRenderer(vertices[some], between, tint, once=True)(camera, background=background, lit=lit)


def maybe_visible(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """The vertices, and the faces between them, that may be visible: a picture of these is that of all but for dots.

    A vertex is hidden if the nearest vertex of its pixel, and of each of the eight pixels around it, is nearer. So
    nothing is hidden where vertices are sparse, or beside what is thinner than three pixels. A face is left out if all
    of its vertices are hidden, so normals at visible vertices do not change.

    Args:
        vertices: [V, 3]. faces: [F, 3].

    Returns:
        [v] indices of vertices; [f, 3] faces that count these. All of them if there are fewer than `CROWDED` vertices
        per pixel.
    """
    from scipy.ndimage import maximum_filter

    height, width = camera.size
    if len(vertices) < CROWDED * height * width:
        return np.arange(len(vertices)), faces
    pixels, depth = camera.project(vertices)
    owned = np.zeros(len(vertices), bool)
    owned[faces] = True
    deep = np.where(owned, depth, np.inf).astype(np.float32)
    # A border of one pixel takes what is outside, and hides nothing.
    row, column = (pixels[:, k].clip(-1, side).astype(np.int32) + 1 for k, side in ((1, height), (0, width)))
    place = row * (width + 2) + column
    nearest = np.full((height + 2) * (width + 2), np.inf, np.float32)
    np.minimum.at(nearest, place, deep)
    limit = maximum_filter(nearest.reshape(height + 2, width + 2), 3, mode="constant", cval=np.inf).reshape(-1)
    slack = np.float32(SLACK_PX * max(float(depth.mean()), NEAR) / camera.focal)
    seen = deep <= limit[place] + slack
    kept = faces[seen[faces[:, 0]] | seen[faces[:, 1]] | seen[faces[:, 2]]]
    owned[:] = False
    owned[kept] = True
    return np.flatnonzero(owned), (np.cumsum(owned) - 1)[kept]
