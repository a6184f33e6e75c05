"""Splatted points against a loop over all of them."""

from __future__ import annotations

import math

import numpy as np

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.render.splat import LARGEST_PX, draw_dots


def slowly(points, sides, camera):
    height, width = camera.size
    owner, nearest = np.full((height, width), -1), np.full((height, width), np.inf)
    pixels, depth = camera.project(points)
    for number in range(len(points)):
        if depth[number] <= 1e-4:
            continue
        side = min(max(math.ceil(sides[number] * camera.focal / depth[number]), 1), LARGEST_PX)
        left, top = (round(float(value) - side / 2) for value in pixels[number])
        for row in range(top, top + side):
            for column in range(left, left + side):
                if 0 <= row < height and 0 <= column < width and depth[number] < nearest[row, column]:
                    owner[row, column], nearest[row, column] = number, depth[number]
    return owner, nearest


def test_nearest_point_is_visible():
    rng = np.random.default_rng(0)
    camera = Camera(np.eye(3), np.zeros(3), 30.0, (20.0, 15.0), (30, 40))
    points = np.concatenate([rng.uniform(-2, 2, (200, 2)), rng.uniform(-0.5, 5, (200, 1))], axis=1)
    sides = rng.uniform(0, 0.6, 200)
    owner, depth = draw_dots(points, sides, camera)
    expected, nearest = slowly(points, sides, camera)
    np.testing.assert_array_equal(owner, expected)
    np.testing.assert_allclose(depth, nearest)
    assert (owner >= 0).any() and (owner < 0).any()


def test_empty_input():
    camera = Camera(np.eye(3), np.zeros(3), 30.0, (2.0, 2.0), (4, 4))
    assert (draw_dots(np.empty((0, 3)), np.empty(0), camera).owner == -1).all()
