"""Boxes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fast_sam3d import metrics
from fast_sam3d.metrics.boxes import box
from tests.metrics import fake_pytorch3d


def test_unit_box():
    normalise = metrics.unit_box([[1.0, 1, 1], [3, 2, 5]])
    assert normalise.side == 4.0 and normalise.centre.tolist() == [2.0, 1.5, 3.0]
    assert np.allclose(normalise([[1, 1, 1], [3, 2, 5]]), [[-0.25, -0.125, -0.5], [0.25, 0.125, 0.5]])
    with pytest.raises(ValueError, match="extent"):
        metrics.unit_box([[1.0, 1, 1]])
    with pytest.raises(ValueError, match="N > 0"):
        box(np.zeros((0, 3)))


def test_box_iou():
    unit = [[0, 0, 0], [1, 1, 1]]
    assert metrics.box_iou(unit, unit) == 1.0
    assert np.isclose(metrics.box_iou(unit, [[0.5, 0, 0], [1.5, 1, 1]]), 0.5 / 1.5)
    assert np.isclose(metrics.box_iou(unit, [[0, 0, 0], [2, 2, 2]]), 1 / 8)
    assert metrics.box_iou(unit, [[2, 2, 2], [3, 3, 3]]) == 0.0
    assert metrics.box_iou([[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, 0]]) == 0.0


def test_layout_box_iou_poses_both_sides():
    cube = np.array([[-0.5] * 3, [0.5] * 3])
    scaled, moved = np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])
    moved[0, 3] = 1.0
    assert metrics.layout_box_iou(cube, scaled, cube, scaled) == 1.0
    assert np.isclose(metrics.layout_box_iou(cube, moved, cube, scaled), 4 / 12)


def turned_box(angle: float, size=(1.0, 1.0, 1.0), at=(0.0, 0.0, 0.0)):
    """[4, 4]: scale, turn about z, move."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", angle, degrees=True).as_matrix() * size
    matrix[:3, 3] = at
    return matrix


CUBE = np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("backend", ["scipy", "pytorch3d"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_oriented_boxes_by_hand(monkeypatch, backend, scale):
    if backend == "pytorch3d":
        fake_pytorch3d.install(monkeypatch)
    tolerance = 1e-6 if backend == "scipy" else 0.03

    def iou(first, second):
        units = np.diag([scale, scale, scale, 1.0])
        return metrics.oriented_box_iou(CUBE, units @ first, CUBE, units @ second, backend)

    same = turned_box(30.0)
    assert iou(same, same) == pytest.approx(1.0, abs=tolerance)
    # A square and itself turned by 45 degrees share a regular octagon: area 2 (sqrt(2) - 1).
    octagon = 2 * (2**0.5 - 1)
    assert iou(same, turned_box(75.0)) == pytest.approx(octagon / (2 - octagon), abs=tolerance)
    assert iou(turned_box(0.0), turned_box(0.0, at=(0.5, 0, 0))) == pytest.approx(1 / 3, abs=tolerance)
    assert iou(turned_box(20.0), turned_box(20.0, (0.5, 0.5, 0.5))) == pytest.approx(1 / 8, abs=tolerance)
    assert iou(turned_box(0.0), turned_box(45.0, at=(1.3, 0, 0))) == 0.0
    assert iou(turned_box(0.0), turned_box(45.0, at=(0, 0, 1.3))) == 0.0


def test_a_flat_object_has_no_volume_to_overlap():
    sheet = [[-1.0, -1, 0], [1, 1, 0]]
    assert metrics.oriented_box_iou(sheet, np.eye(4), sheet, np.eye(4)) == 0.0


def test_box_in_the_frame_of_sam_3d():
    points = np.array([[1.0, 1, 1], [3, 2, 5]])
    assert np.allclose(metrics.unit_box(points, "sam3d")(points), 2 * metrics.unit_box(points)(points))
    with pytest.raises(ValueError, match="unknown frame 'unit'"):
        metrics.unit_box(points, "unit")
