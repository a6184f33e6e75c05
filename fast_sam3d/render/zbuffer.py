"""Visible triangles by scanlines and a z-buffer, in numpy.

Embree (embreex) is not used: it has no wheel for Linux on ARM, its version depends on Python's, its float32 hits would
change refined poses, and a picture of 512 x 512 pixels took 0.41 s against 0.08 s here (91,000 faces).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

__all__ = ["batches", "expand", "nearest_triangle", "pixel_range"]

TILE_PX = 8  # tile of the coarse z-buffer, by which hidden triangles are skipped
FLAT = 1e-12  # twice the area in pixels, below which a triangle is edge-on and has no pixels


def nearest_triangle(
    pixels: np.ndarray, inverse_depth: np.ndarray, triangles: np.ndarray, height: int, width: int, at_once: int
) -> np.ndarray:
    """[height * width] index of the nearest triangle at each pixel centre, -1 for none; ties: the later one.

    Scanlines: every (triangle, row) gives one span of columns between its two edge crossings. A shared edge has exactly
    the same crossings in both of its triangles, because its end points are always taken in the same order.

    Args:
        pixels: [V, 2] float64, column and row. inverse_depth: [V], > 0.
        triangles: [F, 3].
        at_once: fragments per batch, which limits the memory.
    """
    best = np.zeros(height * width, np.uint64)
    u, v = np.ascontiguousarray(pixels[:, 0]), np.ascontiguousarray(pixels[:, 1])
    seen, doubled = _covering(u, v, triangles, height, width)
    touched = np.zeros(len(v), bool)
    touched[triangles[seen]] = True
    used = np.flatnonzero(touched)
    falling = used[np.argsort(v[used], kind="stable")]  # ties in the order of the indices
    rank = np.empty(len(v), np.int64)
    rank[falling] = np.arange(len(falling))

    def draw(chosen: np.ndarray) -> None:
        down = falling[np.sort(rank[triangles[chosen]], axis=1)]
        _draw(best, u, v, inverse_depth, triangles, down, chosen, height, width, at_once)

    # One orientation first: in a closed surface it hides most of the other.
    draw(seen[doubled < 0])
    others = seen[doubled >= 0]
    draw(others[~_hidden(best, u, v, inverse_depth, triangles[others], height, width)])
    return (best & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1


def pixel_range(low: np.ndarray, high: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last pixel with centre in [low, high], within 0..count."""
    first = np.ceil(np.clip(low, -1.0, count + 1.0) - 0.5).astype(np.int64).clip(0, count)
    last = np.floor(np.clip(high, -1.0, count + 1.0) - 0.5).astype(np.int64).clip(-1, count - 1) + 1
    return first, np.maximum(first, last)


def expand(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(range index, integer) of all integers in the ranges [first, last)."""
    counts = last - first
    source = np.repeat(np.arange(len(first)), counts)
    return source, np.arange(len(source)) + (first - (np.cumsum(counts) - counts))[source]


def batches(cost: np.ndarray, at_once: int) -> Iterator[slice]:
    """Consecutive slices of about `at_once` total cost, at least one item each."""
    total, start = np.cumsum(cost), 0
    while start < len(cost):
        limit = (total[start - 1] if start else 0.0) + at_once
        stop = max(start + 1, int(np.searchsorted(total, limit, side="right")))
        yield slice(start, stop)
        start = stop


def _covering(
    u: np.ndarray, v: np.ndarray, triangles: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of triangles with a pixel centre in their box, and twice their signed areas (> 0: clockwise)."""
    seen = np.arange(len(triangles))
    for line, count in ((v, height), (u, width)):
        # Rounded once for each vertex: most triangles of a dense mesh have no pixel centre in their box.
        first, last = (each.astype(np.int32) for each in pixel_range(line, line, count))
        corner = triangles[seen]
        ends = [(first[corner[:, k]], last[corner[:, k]]) for k in range(3)]
        seen = seen[_most([end for _, end in ends]) > _least([begin for begin, _ in ends])]
    corner = triangles[seen]
    us, vs = ([line[corner[:, k]] for k in range(3)] for line in (u, v))
    doubled = (us[1] - us[0]) * (vs[2] - vs[0]) - (vs[1] - vs[0]) * (us[2] - us[0])
    kept = np.abs(doubled) > FLAT
    return seen[kept], doubled[kept]


def _hidden(
    best: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    inverse_depth: np.ndarray,
    triangles: np.ndarray,
    height: int,
    width: int,
) -> np.ndarray:
    """[n] bool: the triangle is behind the z-buffer at every pixel of the tiles that its box touches."""
    nearness = (best >> np.uint64(32)).astype(np.uint32).view(np.float32).reshape(height, width)
    tall, wide = -(-height // TILE_PX), -(-width // TILE_PX)
    padded = np.full((tall * TILE_PX, wide * TILE_PX), np.float32(np.inf))
    padded[:height, :width] = nearness
    farthest = padded.reshape(tall, TILE_PX, wide * TILE_PX).min(axis=1).reshape(tall, wide, TILE_PX).min(axis=2)
    low, high = [], []
    for line, count in ((v, tall), (u, wide)):
        ends = [line[triangles[:, k]] for k in range(3)]
        low.append((_least(ends).clip(0, count * TILE_PX - 1) / TILE_PX).astype(np.int64))
        high.append((_most(ends).clip(0, count * TILE_PX - 1) / TILE_PX).astype(np.int64))
    small = (high[0] - low[0] <= 1) & (high[1] - low[1] <= 1)  # at most these four tiles
    corners = [farthest[row, column] for row in (low[0], high[0]) for column in (low[1], high[1])]
    top = _most([inverse_depth[triangles[:, k]] for k in range(3)])  # no fragment is nearer
    hidden: np.ndarray = small & (top.astype(np.float32) < _least(corners))
    return hidden


def _draw(
    best: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    inverse_depth: np.ndarray,
    triangles: np.ndarray,
    down: np.ndarray,
    chosen: np.ndarray,
    height: int,
    width: int,
    at_once: int,
) -> None:
    """Rasterise triangles `chosen` into `best`; `down` has their corners from top to bottom."""
    corner = triangles[chosen]
    us, vs, ws = ([line[corner[:, k]] for k in range(3)] for line in (u, v, inverse_depth))
    slope = _depth_slopes(us, vs, ws)
    low, high = _least(ws), _most(ws)
    x, y = ([line[down[:, k]] for k in range(3)] for line in (u, v))
    steep = [_slope(x, y, start, end) for start, end in ((0, 2), (0, 1), (1, 2))]
    first, last = _rows(y[0], height), _rows(y[2], height)
    area = (last - first) * np.clip(_most(us) - _least(us) + 1.0, 1.0, width)
    for batch in batches(area, at_once):
        item, row = expand(first[batch], last[batch])
        item += batch.start
        middle = row + 0.5
        long = x[0][item] + (middle - y[0][item]) * steep[0][item]
        below = y[1][item] <= middle
        short = np.where(
            below,
            x[1][item] + (middle - y[1][item]) * steep[2][item],
            x[0][item] + (middle - y[0][item]) * steep[1][item],
        )
        span, column = expand(*pixel_range(np.minimum(long, short), np.maximum(long, short), width))
        item, row, middle = item[span], row[span], middle[span]
        near = ws[0][item] + slope[0][item] * (column + 0.5 - us[0][item]) + slope[1][item] * (middle - vs[0][item])
        # The plane of a sliver is ill-conditioned: clamp to the depths of its corners.
        near = np.minimum(np.maximum(near, low[item]), high[item]).astype(np.float32)
        # Bits of positive floats sort like the floats: with the index as low bits, the z-buffer is one maximum.
        key = (near.view(np.uint32).astype(np.uint64) << np.uint64(32)) | (chosen[item] + 1).astype(np.uint64)
        np.maximum.at(best, row * width + column, key)


def _rows(edge: np.ndarray, height: int) -> np.ndarray:
    """First row with its centre at or below `edge`, within 0..height."""
    return np.ceil(np.clip(edge, -1.0, height + 1.0) - 0.5).astype(np.int64).clip(0, height)


def _slope(x: list[np.ndarray], y: list[np.ndarray], start: int, end: int) -> np.ndarray:
    """Columns per row of an edge; 0 for a horizontal one."""
    rise = y[end] - y[start]
    slope: np.ndarray = (x[end] - x[start]) / np.where(rise > 0, rise, 1.0)
    return slope


def _depth_slopes(us: list[np.ndarray], vs: list[np.ndarray], ws: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (per column, per row) of the linear function with values `ws` at the corners."""
    u1, u2, v1, v2 = us[1] - us[0], us[2] - us[0], vs[1] - vs[0], vs[2] - vs[0]
    w1, w2 = ws[1] - ws[0], ws[2] - ws[0]
    doubled = u1 * v2 - v1 * u2
    return (w1 * v2 - w2 * v1) / doubled, (w2 * u1 - w1 * u2) / doubled


def _least(values: list[np.ndarray]) -> np.ndarray:
    least: np.ndarray = functools.reduce(np.minimum, values)
    return least


def _most(values: list[np.ndarray]) -> np.ndarray:
    most: np.ndarray = functools.reduce(np.maximum, values)
    return most
