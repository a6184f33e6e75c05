"""Errors of poses, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fast_sam3d import metrics
from fast_sam3d.metrics.pose import posed_diameter


def turn(axis, degrees):
    """[3, 3] for row vectors: the transpose of the usual matrix."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix().T


def test_rotation_error_by_hand():
    truth = turn("xyz", [20, 30, 40])
    assert metrics.rotation_error_deg(truth, truth) == pytest.approx(0, abs=1e-6)
    for angle in (1e-4, 10.0, 90.0, 179.0, 180.0):
        assert metrics.rotation_error_deg(turn("x", angle) @ truth, truth) == pytest.approx(angle, rel=1e-5)
        assert metrics.rotation_error_deg(truth @ turn("y", angle), truth) == pytest.approx(angle, rel=1e-5)


def test_rotation_error_applies_symmetry_in_the_object_frame():
    truth = turn("xyz", [20, 30, 40])
    # p @ S @ R: the object turns first. A quarter turn of a square table is no error; of the camera it is.
    quarter = turn("z", 90)
    assert metrics.rotation_error_deg(quarter @ truth, truth, 4) == pytest.approx(0, abs=1e-5)
    assert metrics.rotation_error_deg(quarter @ truth, truth, 1) == pytest.approx(90)
    assert metrics.rotation_error_deg(quarter @ truth, truth, 2) == pytest.approx(90)
    assert metrics.rotation_error_deg(truth @ quarter, truth, 4) > 20
    assert metrics.rotation_error_deg(turn("z", 100) @ truth, truth, 4) == pytest.approx(10)


@pytest.mark.parametrize("symmetry", ["inf", 0])
def test_rotation_error_of_a_solid_of_revolution(symmetry):
    truth = turn("xyz", [20, 30, 40])
    assert metrics.rotation_error_deg(turn("z", 77) @ truth, truth, symmetry) == pytest.approx(0, abs=1e-5)
    tilted = turn("z", 77) @ turn("x", 15) @ truth
    assert metrics.rotation_error_deg(tilted, truth, symmetry) == pytest.approx(15)
    # The closed form is the limit of many folds.
    random = turn("xyz", [-50, 10, 130])
    many = metrics.rotation_error_deg(random, truth, 7200)
    assert metrics.rotation_error_deg(random, truth, symmetry) == pytest.approx(many, abs=1e-3)


def test_rotation_error_with_listed_rotations():
    truth, flip = turn("xyz", [20, 30, 40]), turn("x", 180)
    assert metrics.rotation_error_deg(flip @ truth, truth, [flip]) == pytest.approx(0, abs=1e-5)
    assert metrics.rotation_error_deg(truth, truth, [flip]) == pytest.approx(0, abs=1e-5)  # the identity is implied
    for symmetry in ("all", -1):
        with pytest.raises(ValueError, match="symmetry"):
            metrics.rotation_error_deg(truth, truth, symmetry)


def test_translation_and_scale_errors():
    assert metrics.translation_error([[0, 3.0, 4.0]], [0, 0, 0], diameter=10.0) == pytest.approx(0.5)
    assert metrics.scale_error(torch.tensor([[1.1, 0.9, 1.0]]), [1.0, 1.0, 1.0]) == pytest.approx(0.2 / 3, rel=1e-5)
    assert metrics.scale_error([2.0, 2.0, 2.0], 1.0) == 1.0
    with pytest.raises(ValueError, match="diameter"):
        metrics.translation_error([0, 0, 0], [0, 0, 0], 0.0)


def pose(angle=0.0, scale=1.0, at=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("x", angle, degrees=True).as_matrix() * scale
    matrix[:3, 3] = at
    return matrix


def test_add_s_by_hand():
    points = np.array([[0.0, 0, 0], [3, 0, 0], [3, 4, 0]])  # a box of 3 x 4 x 0: diameter 5
    assert metrics.add_s(points, pose(), points, pose()) == 0.0
    assert metrics.add_s(points, pose(at=(0, 0, 1.0)), points, pose()) == pytest.approx(1 / 5)
    assert metrics.add_s(points, pose(scale=2.0, at=(0, 0, 1.0)), points, pose(scale=2.0)) == pytest.approx(1 / 10)
    # One point more, 2 away: there (0 + 0 + 0 + 2) / 4, back 0.
    more = np.concatenate([points, [[3.0, 4, 2]]])
    assert metrics.add_s(more, pose(), points, pose()) == pytest.approx((0.5 + 0) / 2 / 5)


def test_add_s_ignores_rotations_of_a_symmetric_object():
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    ring = np.stack([np.zeros_like(angle), np.cos(angle), np.sin(angle)], axis=1)
    assert metrics.add_s(ring, pose(77.0), ring, pose()) < 0.003
    bar = ring * [1, 1, 0.1]
    assert metrics.add_s(bar, pose(77.0), bar, pose()) > 0.1


def test_the_diameter_is_measured_along_the_objects_own_axes():
    points = np.array([[0.0, 0, 0], [2, 3, 6]])
    assert posed_diameter(points, pose(37.0, 0.5, (5, 5, 5))) == pytest.approx(3.5)
    with pytest.raises(ValueError, match="no extent"):
        posed_diameter([[1.0, 1, 1]], pose())
