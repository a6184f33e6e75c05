"""Focal lengths and shifts of scenes whose camera is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fast_sam3d.native.focal import camera_matrix, recover_focal_shift, view_plane


def scene(height: int, width: int, focal: float, shift: float) -> Tensor:
    """Points [H, W, 3] seen through a camera, moved by -shift along z; focal in units of half the diagonal."""
    half = math.hypot(width, height) / 2
    points = torch.empty(height, width, 3)
    for row in range(height):
        for column in range(width):
            u, v = (column + 0.5 - width / 2) / half, (row + 0.5 - height / 2) / half
            z = 3 + math.sin(3 * u) + math.cos(5 * v)
            points[row, column] = torch.tensor([u * z / focal, v * z / focal, z - shift])
    return points


def test_place_of_each_pixel() -> None:
    plane = view_plane(5, 4, 5 / 4)
    half = math.hypot(5, 4) / 2
    for row in range(4):
        for column in range(5):
            expected = torch.tensor([(column + 0.5 - 2.5) / half, (row + 0.5 - 2) / half])
            torch.testing.assert_close(plane[:, row, column], expected)
    # A map of another resolution has the same corners but for half a pixel.
    assert view_plane(50, 40, 5 / 4)[0, 0, 0] == pytest.approx(-(2.5 - 0.05) / half)


@pytest.mark.parametrize(("size", "focal", "shift"), [((40, 50), 1.3, 0.7), ((90, 30), 0.6, -0.4), ((7, 9), 2.0, 0.0)])
def test_camera_is_recovered(size: tuple[int, int], focal: float, shift: float) -> None:
    points = scene(*size, focal, shift)
    found = recover_focal_shift(points, torch.ones(size, dtype=torch.bool))
    # The search stops at a relative change of 1e-3.
    assert found == (pytest.approx(focal, rel=2e-2), pytest.approx(shift, abs=5e-2))


def test_points_outside_of_the_mask_or_without_a_depth_do_not_count() -> None:
    points = scene(40, 50, 1.3, 0.7)
    mask = torch.ones(40, 50, dtype=torch.bool)
    expected = recover_focal_shift(points, mask & (torch.arange(50) < 30))
    points[:, 30:40] = -5.0
    mask[:, 30:] = False
    assert recover_focal_shift(points, mask) == expected
    mask[:, 40:] = True
    points[:, 40:44], points[:, 44:48, 2], points[:, 48:, 1] = torch.nan, 0.0, torch.inf
    assert recover_focal_shift(points, mask) == expected


def test_without_points_there_is_no_camera_to_find() -> None:
    every, one = torch.ones(6, 5, dtype=torch.bool), torch.zeros(6, 5, dtype=torch.bool)
    one[0, 0] = True
    for points, mask in (
        (scene(6, 5, 1, 0), ~every), (torch.full((6, 5, 3), torch.nan), every), (torch.zeros(6, 5, 3), every),
        (torch.tensor([0.0, 0.0, 2.0]).expand(6, 5, 3), every),
    ):  # fmt: skip
        assert recover_focal_shift(points, mask) == (1.0, 0.0)
    assert all(map(math.isfinite, recover_focal_shift(scene(6, 5, 1, 0), one)))


def test_intrinsics_are_in_units_of_the_picture() -> None:
    found = camera_matrix(1.5, 30, 40)
    # 50 pixels of diagonal: half of it is 25, so the focal length is 37.5 pixels.
    torch.testing.assert_close(found, torch.tensor([[37.5 / 40, 0, 0.5], [0, 37.5 / 30, 0.5], [0, 0, 1]]))
