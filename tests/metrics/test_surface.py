"""Surface distances against cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d import metrics
from fast_sam3d.metrics.surface import largest_offset, sample_surface


def test_sample_surface_is_uniform_by_area():
    # Two triangles of area 1/2 and 3/2 in the plane z = 0.
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-3, 0, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    points = sample_surface(mesh, 20_000, seed=1)
    assert points.shape == (20_000, 3) and not points[:, 2].any()
    assert abs((points[:, 0] > 0).mean() - 0.25) < 0.01
    right = points[points[:, 0] > 0]
    assert (right[:, 0] + right[:, 1] <= 1 + 1e-9).all()
    assert np.allclose(right.mean(axis=0)[:2], 1 / 3, atol=0.01)  # a triangle's centroid


def test_sampling_does_not_use_global_generators():
    mesh = trimesh.creation.box()
    state = np.random.get_state
    before = state()[1].copy(), torch.get_rng_state()
    first, second = (sample_surface(mesh, 50, seed=4) for _ in range(2))
    assert np.array_equal(first, second) and not np.array_equal(first, sample_surface(mesh, 50, seed=5))
    assert np.array_equal(before[0], state()[1]) and torch.equal(before[1], torch.get_rng_state())
    with pytest.raises(ValueError, match="no area"):
        sample_surface(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), 5)


def test_largest_offset_of_parts_that_are_missing():
    ball = trimesh.creation.icosphere(3)
    assert largest_offset(trimesh.creation.icosphere(4), ball) == 0
    half = trimesh.Trimesh(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0])
    for mesh, truth in ((half, ball), (ball, half)):
        assert 0.4 < largest_offset(mesh, truth) < 0.75  # the poles are a chord of 1.41 away from the rim, of 2


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


def test_compare_meshes_normalises_by_the_ground_truth():
    truth = trimesh.creation.icosphere(subdivisions=4, radius=2.0)
    exact = metrics.compare_meshes(truth, truth)
    assert exact["f1@0.05"] == 1.0 and 0 < exact["chamfer"] < 0.02
    # Concentric spheres of radius 0.5 and 0.53 in the ground truth's cube: 0.03 apart both ways.
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


def test_a_threshold_in_sam_3ds_frame_is_half_of_ours():
    first, second = trimesh.creation.icosphere(subdivisions=2), trimesh.creation.box((1.5, 1.5, 1.5))
    here = metrics.compare_meshes(first, second, 400, taus=(0.025, 0.05))
    there = metrics.compare_meshes(first, second, 400, taus=(0.05, 0.1), frame="sam3d")
    assert 0 < here["f1@0.025"] < here["f1@0.05"] < 1
    assert there["f1@0.05"] == here["f1@0.025"] and there["f1@0.1"] == here["f1@0.05"]
    assert there["chamfer"] == pytest.approx(2 * here["chamfer"])
    assert there["chamfer_squared"] == pytest.approx(4 * here["chamfer_squared"])
    assert metrics.compare_meshes(None, second, frame="sam3d")["chamfer"] == 2 * metrics.WORST_CHAMFER


def test_icp_removes_a_shift_only_if_requested():
    truth = trimesh.creation.box((1.0, 0.7, 0.4))
    shifted = truth.copy().apply_translation((0.06, 0.04, 0.0))
    plain, aligned = (metrics.compare_meshes(shifted, truth, 4000, icp=icp, taus=(0.03,)) for icp in (False, True))
    assert plain["f1@0.03"] < 0.75 < 0.95 < aligned["f1@0.03"]
