"""Which triangle covers each texel of a texture, and filling of what none covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["covered_texels", "fill_gaps"]

ROWS = 1 << 16
"""Rows of triangles at once; bounds the memory."""


def covered_texels(
    uv: NDArray[np.floating], faces: NDArray[np.integer], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The texels whose centres lie in a triangle, row by row of each triangle.

    Args:
        uv: [V, 2] in 0..1; v goes down the rows. faces: [F, 3]. size: of the square texture.

    Returns:
        texel [N] (row * size + column), face [N], and barycentric coordinates [N, 3]. A texel that two triangles
        cover, on an edge of both, is there twice.
    """
    corners = uv[faces].astype(np.float64) * size - 0.5  # texel centres at whole numbers
    x, y = corners[..., 0], corners[..., 1]
    first = np.maximum(np.ceil(y.min(axis=1)), 0).astype(np.int64)
    last = np.minimum(np.floor(y.max(axis=1)), size - 1).astype(np.int64)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    rows = np.where(area != 0, np.maximum(last - first + 1, 0), 0)
    owner, row = _counted(rows, first)
    texels, found, weights = [], [], []
    for start in range(0, len(owner), ROWS):
        face, line = owner[start : start + ROWS], row[start : start + ROWS]
        left, right = _crossing(x[face], y[face], line)
        begin = np.maximum(np.ceil(left), 0).astype(np.int64)
        end = np.minimum(np.floor(right), size - 1).astype(np.int64)
        which, column = _counted(np.maximum(end - begin + 1, 0), begin)
        face, line = face[which], line[which]
        a, b, c = (corners[face, i] - np.stack([column, line], axis=1) for i in range(3))
        parts = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1) / area[face, None]
        texels.append(line * size + column)
        found.append(face)
        weights.append(np.clip(parts, 0.0, 1.0))
    if not texels:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3))
    return np.concatenate(texels), np.concatenate(found), np.concatenate(weights)


def fill_gaps(texture: NDArray[np.uint8], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give every texel that is not covered the colour of the nearest that is, so that no seam shows.

    Args:
        texture: [H, W, 3]. covered: [H, W], at least one.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    filled: NDArray[np.uint8] = texture[tuple(nearest)]
    return filled


def _counted(counts: NDArray[np.int64], first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each i its `counts[i]` whole numbers from `first[i]` on: the owners, and the numbers."""
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - before[owner] + first[owner]


def _crossing(
    x: NDArray[np.float64], y: NDArray[np.float64], line: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where horizontal lines [N] enter and leave triangles with corners x, y [N, 3]; left > right if nowhere."""
    left, right = np.full(len(line), np.inf), np.full(len(line), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        low, high = np.minimum(y[:, i], y[:, j]), np.maximum(y[:, i], y[:, j])
        meets = (low <= line) & (line <= high)
        step = np.divide(line - y[:, i], y[:, j] - y[:, i], out=np.zeros(len(line)), where=high > low)
        at = x[:, i] + step * (x[:, j] - x[:, i])
        left = np.where(meets, np.minimum(left, at), left)
        right = np.where(meets, np.maximum(right, at), right)
        flat = meets & (high == low)  # the whole edge lies on the line
        right = np.where(flat, np.maximum(right, x[:, j]), right)
        left = np.where(flat, np.minimum(left, x[:, j]), left)
    return left, right


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return product
