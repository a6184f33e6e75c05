"""Measures against cases worked by hand."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from fast_sam3d import metrics

SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])


def turn(axis, degrees):
    """[3, 3] for row vectors: the transpose of the usual matrix."""
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix().T


def test_unit_box():
    normalise = metrics.unit_box([[1.0, 1, 1], [3, 2, 5]])
    assert normalise.side == 4.0 and normalise.centre.tolist() == [2.0, 1.5, 3.0]
    assert np.allclose(normalise([[1, 1, 1], [3, 2, 5]]), [[-0.25, -0.125, -0.5], [0.25, 0.125, 0.5]])
    with pytest.raises(ValueError, match="extent"):
        metrics.unit_box([[1.0, 1, 1]])
    with pytest.raises(ValueError, match="N > 0"):
        metrics.box(np.zeros((0, 3)))


def test_sample_surface_is_uniform_by_area():
    # Two triangles of area 1/2 and 3/2 in the plane z = 0.
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-3, 0, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    points = metrics.sample_surface(mesh, 20_000, seed=1)
    assert points.shape == (20_000, 3) and not points[:, 2].any()
    assert abs((points[:, 0] > 0).mean() - 0.25) < 0.01
    right = points[points[:, 0] > 0]
    assert (right[:, 0] + right[:, 1] <= 1 + 1e-9).all()
    assert np.allclose(right.mean(axis=0)[:2], 1 / 3, atol=0.01)  # a triangle's centroid


def test_sampling_has_its_own_generator():
    mesh = trimesh.creation.box()
    state = np.random.get_state
    before = state()[1].copy(), torch.get_rng_state()
    first, second = (metrics.sample_surface(mesh, 50, seed=4) for _ in range(2))
    assert np.array_equal(first, second) and not np.array_equal(first, metrics.sample_surface(mesh, 50, seed=5))
    assert np.array_equal(before[0], state()[1]) and torch.equal(before[1], torch.get_rng_state())
    with pytest.raises(ValueError, match="no area"):
        metrics.sample_surface(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), 5)


def test_chamfer_by_hand():
    a, b = [[0.0, 0, 0], [1, 0, 0]], [[0.0, 0, 0], [1, 0, 0], [1, 2, 0]]
    assert metrics.chamfer(a, a) == 0.0
    assert np.isclose(metrics.chamfer(a, b), 0.0 + 2 / 3)
    assert np.isclose(metrics.chamfer(b, a), 2 / 3)
    assert np.isclose(metrics.chamfer(a, b, squared=True), 4 / 3)


def test_f1_by_hand():
    a, b = [[0.0, 0, 0], [1, 0, 0]], [[0.0, 0, 0], [0.5, 0, 0], [9, 0, 0], [9, 1, 0]]
    # Within 0.1: precision 1/2, recall 1/4.
    assert np.isclose(metrics.f1(a, b, 0.1), 2 * 0.5 * 0.25 / 0.75)
    assert np.isclose(metrics.f1(a, b, 0.5), 2 * 1.0 * 0.5 / 1.5)  # a distance equal to tau counts
    assert metrics.f1(a, [[50.0, 0, 0]], 0.1) == 0.0


def test_compare_meshes_uses_the_truths_box():
    truth = trimesh.creation.icosphere(subdivisions=4, radius=2.0)
    exact = metrics.compare_meshes(truth, truth)
    assert exact["f1@0.05"] == 1.0 and 0 < exact["chamfer"] < 0.02
    # Concentric spheres of radius 0.5 and 0.53 in the truth's cube: 0.03 apart both ways.
    larger = metrics.compare_meshes(truth.copy().apply_scale(1.06), truth)
    assert np.isclose(larger["chamfer"], 0.06, atol=0.004) and larger["f1@0.01"] == 0.0 and larger["f1@0.05"] == 1.0
    assert np.isclose(larger["chamfer_squared"], 2 * 0.03**2, rtol=0.15)
    moved = metrics.compare_meshes(truth.copy().apply_translation((9, 9, 9)), truth.copy().apply_translation((9, 9, 9)))
    assert np.isclose(moved["chamfer"], exact["chamfer"], atol=1e-6)


@pytest.mark.parametrize("failed", [None, trimesh.Trimesh()])
def test_a_failed_reconstruction_scores_worst(failed):
    scores = metrics.compare_meshes(failed, trimesh.creation.box())
    assert scores["f1@0.05"] == scores["f1@0.01"] == 0.0
    assert scores["chamfer"] == metrics.WORST_CHAMFER and scores["chamfer_squared"] == pytest.approx(6.0)


def test_voxel_iou():
    a, b = [[0, 0, 0], [0, 0, 1], [0, 0, 1]], torch.tensor([[0, 0, 1], [5, 5, 5], [6, 6, 6]])
    assert metrics.voxel_iou(a, b) == 0.25
    assert metrics.voxel_iou(a, a) == 1.0
    assert metrics.voxel_iou(np.zeros((0, 3), int), b) == 0.0 and metrics.voxel_iou(b[:0], b[:0]) == 1.0
    with pytest.raises(ValueError, match="shape"):
        metrics.voxel_iou(a, [[0, 0, 0, 1]])


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


def test_rotation_error_by_hand():
    truth = turn("xyz", [20, 30, 40])
    assert metrics.rotation_error_deg(truth, truth) == pytest.approx(0, abs=1e-6)
    for angle in (1e-4, 10.0, 90.0, 179.0, 180.0):
        assert metrics.rotation_error_deg(turn("x", angle) @ truth, truth) == pytest.approx(angle, rel=1e-5)
        assert metrics.rotation_error_deg(truth @ turn("y", angle), truth) == pytest.approx(angle, rel=1e-5)


def test_rotation_error_takes_symmetry_in_the_objects_frame():
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


def test_the_error_of_a_mean_leaves_out_what_is_not_finite():
    mean, error = metrics.mean_and_error([1.0, 2.0, 3.0, np.nan, np.inf])
    assert (mean, error) == (2.0, pytest.approx(1 / 3**0.5))
    for centre in (metrics.mean_and_error, metrics.median_and_error):
        assert centre([4.0, np.nan])[0] == 4.0 and np.isnan(centre([4.0, np.nan])[1])
        assert np.isnan(centre([])).all()


def test_the_error_of_a_median_is_not_that_of_a_mean():
    # Of a normal sample sqrt(pi / 2) as large; with a few values far away it hardly moves.
    values = np.random.default_rng(0).normal(size=2000)
    expected = (np.pi / 2) ** 0.5 / 2000**0.5
    assert metrics.median_and_error(values)[1] == pytest.approx(expected, rel=0.15)
    far = np.concatenate([values, np.full(20, 180.0)])
    assert metrics.median_and_error(far)[1] < 1.3 * expected < metrics.mean_and_error(far)[1] / 5
    assert metrics.median_and_error(far) == metrics.median_and_error(far)
    assert metrics.median_and_error(far)[0] == np.median(far)
