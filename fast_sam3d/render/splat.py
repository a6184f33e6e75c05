"""Quick pictures of dense surfaces: every vertex a square dot, the nearest one wins.

For the many small frames of a turntable, where a mesh's triangles are smaller than a pixel anyway.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.camera import NEAR, Camera

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
    side = np.ceil(sides * camera.focal / np.maximum(depth, NEAR)).clip(1, LARGEST_PX).astype(np.int64)
    column, row = (np.round(line.clip(-1e6, 1e6) - side / 2).astype(np.int64) + LARGEST_PX for line in pixels.T)
    # A border on all sides takes what falls out of the picture.
    tall, wide = height + 2 * LARGEST_PX, width + 2 * LARGEST_PX
    seen = np.flatnonzero((depth > NEAR) & (column >= 0) & (column <= width + LARGEST_PX) & (row >= 0)
                          & (row <= height + LARGEST_PX))  # fmt: skip
    corner, side = (row * wide + column)[seen], side[seen]
    # The bits of positive floats sort like the floats: with the number below them the nearest is one maximum.
    near = (1.0 / depth[seen]).astype(np.float32).view(np.uint32).astype(np.uint64)
    key = (near << np.uint64(32)) | (seen + 1).astype(np.uint64)
    best = np.zeros(tall * wide, np.uint64)
    for reach in range(int(side.max(initial=0))):
        if reach:
            larger = side > reach
            corner, side, key = corner[larger], side[larger], key[larger]
        for down, right in [(reach, k) for k in range(reach + 1)] + [(k, reach) for k in range(reach)]:
            np.maximum.at(best, corner + (down * wide + right), key)
    inner = slice(LARGEST_PX, -LARGEST_PX)
    owner = (best & np.uint64(0xFFFFFFFF)).astype(np.int64).reshape(tall, wide)[inner, inner] - 1
    deep = np.full((height, width), np.inf)
    deep[owner >= 0] = depth[owner[owner >= 0]]
    return Dots(owner, deep)
