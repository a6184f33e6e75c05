"""Quick pictures of dense surfaces: every vertex a square dot, the nearest one wins.

For the many small frames of a turntable, where a mesh's triangles are smaller than a pixel anyway.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.camera import NEAR, Camera

__all__ = ["Dots", "draw_dots"]

LARGEST_PX = 15
"""Of a dot's side. A dot that would be larger stands for a surface that is coarse, or right before the camera."""


class Dots(NamedTuple):
    """The nearest dot at each pixel, [H, W] int64, -1 for none; and its depth, [H, W] float64, inf for none."""

    owner: NDArray[np.int64]
    depth: NDArray[np.float64]


def draw_dots(points: NDArray[np.float64], sides: NDArray[np.float64], camera: Camera) -> Dots:
    """Which dot is seen where.

    Args:
        points: [N, 3], world.
        sides: [N], of the dots, world units.
        camera: dots whose middle is closer than `NEAR` are left out.
    """
    height, width = camera.size
    pixels, depth = camera.project(points)
    order = np.argsort(-depth, kind="stable")  # the farthest first: what is written last stays
    order = order[depth[order] > NEAR]
    side = np.ceil(sides[order] * camera.focal / depth[order]).clip(1, LARGEST_PX).astype(np.int64)
    corner = np.round(pixels[order].clip(-1e6, 1e6) - side[:, None] / 2).astype(np.int64)
    owner = np.full(height * width, -1, np.int64)
    dot = np.repeat(np.arange(len(order)), side * side)
    first = np.cumsum(side * side) - side * side
    inside = np.arange(len(dot)) - first[dot]
    column = corner[dot, 0] + inside % side[dot]
    row = corner[dot, 1] + inside // side[dot]
    seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    owner[(row * width + column)[seen]] = order[dot[seen]]
    deep = np.full(height * width, np.inf)
    deep[owner >= 0] = depth[owner[owner >= 0]]
    return Dots(owner.reshape(height, width), deep.reshape(height, width))
