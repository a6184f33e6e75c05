"""The z-buffer against a loop over every triangle and sample."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d.render.zbuffer import nearest_triangle

HEIGHT, WIDTH = 43, 49


def slowly(pixels, inverse_depth, triangles):
    """Half-plane tests and interpolated depths; also the depth of the visible triangle."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    best, winner = np.zeros((HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), -1)
    for number, corners in enumerate(triangles):
        (x0, y0), (x1, y1), (x2, y2) = pixels[corners]
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if abs(area) < 1e-12:
            continue
        b = ((columns - x0) * (y2 - y0) - (rows - y0) * (x2 - x0)) / area
        c = ((x1 - x0) * (rows - y0) - (y1 - y0) * (columns - x0)) / area
        near = (1 - b - c) * inverse_depth[corners[0]] + b * inverse_depth[corners[1]] + c * inverse_depth[corners[2]]
        wins = (b >= 0) & (c >= 0) & (b + c <= 1) & (near >= best)
        best[wins], winner[wins] = near[wins], number
    return winner.reshape(-1)


def soup(seed, count, size):
    """Triangles of both orientations anywhere, also outside the picture and behind each other."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform([-5, -5], [WIDTH + 5, HEIGHT + 5], (count, 1, 2))
    pixels = (middle + rng.uniform(-size, size, (count, 3, 2))).reshape(-1, 2)
    depth = np.repeat(rng.uniform(1, 3, count), 3) + rng.uniform(0, 0.3, 3 * count)
    return pixels, 1.0 / depth, np.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize(("count", "size"), [(40, 25.0), (400, 6.0), (4000, 1.5)])
@pytest.mark.parametrize("at_once", [200, 1_000_000])
def test_equals_a_loop_over_all_triangles(count, size, at_once):
    given = soup(count, count, size)
    found = nearest_triangle(*given, HEIGHT, WIDTH, at_once)
    np.testing.assert_array_equal(found, slowly(*given))
    assert (found >= 0).any()


def sheets(nearer_half):
    """A fine grid of clockwise triangles at depth 1, and one of the other orientation behind it or, on one half,
    before it."""
    step, tall, wide = 2.0, HEIGHT // 2 + 1, WIDTH // 2 + 1
    rows, columns = np.mgrid[: tall + 1, : wide + 1]
    grid = np.stack([columns, rows], axis=-1).reshape(-1, 2) * step
    corner = (np.arange(tall)[:, None] * (wide + 1) + np.arange(wide)).reshape(-1)
    first = np.stack([corner, corner + 1, corner + wide + 1], axis=1)
    second = np.stack([corner + 1, corner + wide + 2, corner + wide + 1], axis=1)
    faces = np.concatenate([first, second])
    behind = np.where((grid[:, 0] < WIDTH / 2) & nearer_half, 2.0, 0.5)
    both = np.concatenate([faces, faces[:, ::-1] + len(grid)])
    return np.concatenate([grid, grid]), np.concatenate([np.ones(len(grid)), behind]), both


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("nearer_half", [False, True])
def test_hidden_triangles_are_not_seen(nearer_half, turned):
    pixels, inverse_depth, faces = sheets(nearer_half)
    faces = faces[:, ::-1] if turned else faces
    found = nearest_triangle(pixels, inverse_depth, faces, HEIGHT, WIDTH, 1_000_000).reshape(HEIGHT, WIDTH)
    other = found >= len(faces) // 2
    assert other[:, : WIDTH // 2 - 2].all() == nearer_half and not other[:, WIDTH // 2 + 3 :].any()
    assert (found >= 0).all()  # no gap between neighbours
