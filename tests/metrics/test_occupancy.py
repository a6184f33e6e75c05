"""Overlap of cells, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d import metrics
from fast_sam3d.metrics.occupancy import cells


def test_voxel_iou():
    a, b = [[0, 0, 0], [0, 0, 1], [0, 0, 1]], torch.tensor([[0, 0, 1], [5, 5, 5], [6, 6, 6]])
    assert metrics.voxel_iou(a, b) == 0.25
    assert metrics.voxel_iou(a, a) == 1.0
    assert metrics.voxel_iou(np.zeros((0, 3), int), b) == 0.0 and metrics.voxel_iou(b[:0], b[:0]) == 1.0
    with pytest.raises(ValueError, match="shape"):
        metrics.voxel_iou(a, [[0, 0, 0, 1]])


def test_volume_iou_of_boxes_by_hand():
    cube = trimesh.creation.box()
    assert metrics.volume_iou(cube, cube) == 1.0
    half = trimesh.creation.box((0.5, 1, 1)).apply_translation((-0.25, 0, 0))
    assert metrics.volume_iou(half, cube, 32) == pytest.approx(0.5, abs=1 / 32)
    assert metrics.volume_iou(trimesh.creation.box((2, 1, 1)), cube, 32) == pytest.approx(0.5, abs=1 / 32), "sticks out"
    away = cube.copy().apply_translation((3, 0, 0))
    assert metrics.volume_iou(away, cube) == 0.0 and metrics.volume_iou(away, away) == 1.0
    for nothing in (None, trimesh.Trimesh()):
        assert metrics.volume_iou(nothing, cube) == 0.0
    with pytest.raises(ValueError, match="resolution"):
        metrics.volume_iou(cube, cube, 0)


def test_a_cube_fills_the_whole_grid():
    cube = trimesh.creation.box()
    shell, solid = (cells(cube, np.asarray(cube.vertices), 16, filled) for filled in (False, True))
    assert len(solid) == 16**3 and solid.min() == 0 and solid.max() == 15
    assert len(shell) == 16**3 - 14**3


def test_a_filled_ball_has_the_volume_of_a_ball():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    found = cells(ball, np.asarray(ball.vertices), 64, True)
    centre = (found + 0.5) / 64 - 0.5
    assert np.linalg.norm(centre, axis=1).max() < 0.5 + 1 / 64
    # All cells that the surface meets are taken, so that it is about half a cell too thick.
    assert len(found) / 64**3 == pytest.approx(4 / 3 * np.pi * (0.5 + 0.5 / 64) ** 3, rel=0.02)
