"""Point splatting: each vertex is a square dot with a depth test.

For pose refinement and turntable frames, where triangles are smaller than a pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.camera import NEAR, Camera

__all__ = ["Dots", "draw_dots"]

LARGEST_PX = 15
"""Largest side of a dot. Larger dots come from coarse surfaces, or from points close to the camera."""


class Dots(NamedTuple):
    """Index of the nearest dot at each pixel, [H, W] int64, -1 for none, and its depth, [H, W] float64, inf."""

    owner: NDArray[np.int64]
    depth: NDArray[np.float64]


def draw_dots(points: NDArray[np.float64], sides: NDArray[np.float64], camera: Camera) -> Dots:
    """Splat points as squares.

    Args:
        points: [N, 3], world.
        sides: [N], side lengths in world units.
        camera: points closer than `NEAR` are omitted.
    """
    height, width = camera.size
    pixels, depth = camera.project(points)
    side = np.ceil(sides * camera.focal / np.maximum(depth, NEAR)).clip(1, LARGEST_PX).astype(np.int64)
    column, row = (np.round(line.clip(-1e6, 1e6) - side / 2).astype(np.int64) + LARGEST_PX for line in pixels.T)
    # A border on all sides catches dots that reach outside.
    tall, wide = height + 2 * LARGEST_PX, width + 2 * LARGEST_PX
    seen = np.flatnonzero((depth > NEAR) & (column >= 0) & (column <= width + LARGEST_PX) & (row >= 0)
                          & (row <= height + LARGEST_PX))  # fmt: skip
    corner, side = (row * wide + column)[seen], side[seen]
    # Bits of positive floats sort like the floats: with the index as low bits, the nearest is one maximum.
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
