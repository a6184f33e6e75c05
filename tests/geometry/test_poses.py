"""Poses and what is moved by them, against matrices written out."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch

from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import GLB_FROM_CAMERA, Pose, merge_gaussians, place_gaussians, pose_matrix


def some_pose(seed: int = 0, scale: tuple[float, float, float] = (0.7, 0.7, 0.7)) -> Pose:
    rng = np.random.default_rng(seed)
    return Pose(rng.normal(size=4), rng.normal(size=3) + np.array([0, 0, 3]), np.array(scale))


def some_cloud(seed: int = 0, count: int = 50) -> GaussianCloud:
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(count, 4))
    return GaussianCloud(
        rng.uniform(-0.5, 0.5, (count, 3)).astype(np.float32),
        rng.uniform(0.01, 0.1, (count, 3)).astype(np.float32),
        (turns / np.linalg.norm(turns, axis=1, keepdims=True)).astype(np.float32),
        rng.uniform(0.1, 1, (count, 1)).astype(np.float32),
        rng.normal(size=(count, 1, 3)).astype(np.float32),
    )


def matrices(wxyz: np.ndarray) -> np.ndarray:
    """[..., 3, 3], by roma: the package takes scipy."""
    return roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(torch.from_numpy(wxyz.astype(np.float64)))).numpy()


def covariances(cloud: GaussianCloud) -> np.ndarray:
    turns = matrices(cloud.get_rotation)
    axes = turns * cloud.get_scaling.astype(np.float64)[:, None, :]
    return axes @ axes.transpose(0, 2, 1)


@pytest.mark.parametrize("seed", range(4))
def test_matrix_follows_the_row_vector_convention(seed):
    pose = some_pose(seed)
    points = np.random.default_rng(seed).normal(size=(20, 3))
    turn = matrices(pose.rotation)
    expected = (points * pose.scale) @ turn + pose.translation
    np.testing.assert_allclose(points @ pose.matrix[:3, :3].T + pose.matrix[:3, 3], expected, atol=1e-12)
    result = {"rotation": pose.rotation[None], "translation": pose.translation[None], "scale": pose.scale[None]}
    np.testing.assert_allclose(pose.matrix, pose_matrix(result), atol=1e-12)


def test_quarter_turn_by_hand():
    # R of 90 degrees about z, (c, -s; s, c), on the row vector (1, 0, 0): its first row, (0, -1, 0).
    pose = Pose(np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)]), np.array([0.0, 0, 5]), np.full(3, 2.0))
    np.testing.assert_allclose(pose.matrix @ [1, 0, 0, 1], [0, -2, 5, 1], atol=1e-12)


@pytest.mark.parametrize("scale", [(0.7, 0.7, 0.7), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_round_trip_through_a_matrix(seed, scale):
    pose = some_pose(seed, scale)
    back = Pose.from_matrix(pose.matrix)
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-12)
    assert abs(abs(back.rotation @ pose.rotation) - 1) < 1e-12


@pytest.mark.parametrize("scale", [(0.7, 0.7, 0.7), (0.5, 1.0, 2.0)])
def test_placed_gaussians_have_transformed_covariances(scale):
    pose, cloud = some_pose(3, scale), some_cloud()
    placed = place_gaussians(cloud, pose)
    upper = pose.matrix[:3, :3]
    np.testing.assert_allclose(covariances(placed), upper @ covariances(cloud) @ upper.T, atol=1e-6)
    np.testing.assert_allclose(placed.get_xyz, cloud.get_xyz @ upper.T + pose.translation, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(placed.get_rotation, axis=1), 1, atol=1e-5)
    assert placed.get_opacity is cloud.get_opacity
    assert placed._features_dc is cloud._features_dc


def test_merging_keeps_the_order():
    clouds = [some_cloud(seed, count) for seed, count in ((1, 3), (2, 5))]
    merged = merge_gaussians(clouds)
    np.testing.assert_array_equal(merged.get_xyz[3:], clouds[1].get_xyz)
    assert len(merged.get_opacity) == 8
    with pytest.raises(ValueError, match="no gaussians"):
        merge_gaussians([])


def test_glb_nodes_transform_meshes_with_y_up():
    pose = some_pose(1)
    point = np.array([0.1, 0.2, 0.3, 1])  # +z up
    y_up = np.array([0.1, 0.3, -0.2, 1])
    np.testing.assert_allclose(pose.glb_matrix @ y_up, GLB_FROM_CAMERA @ pose.matrix @ point, atol=1e-12)
    assert np.linalg.det(pose.glb_matrix[:3, :3]) > 0  # no mirror


@pytest.mark.parametrize(
    ("rotation", "translation", "scale"),
    [
        ((0, 0, 0, 0), (0, 0, 1), (1, 1, 1)),
        ((1, 0, 0, 0), (0, 0, np.nan), (1, 1, 1)),
        ((1, 0, 0, 0), (0, 0, 1), (0, 1, 1)),
    ],
)
def test_invalid_poses_are_rejected(rotation, translation, scale):
    with pytest.raises(ValueError, match="a pose needs"):
        Pose(*(np.array(part, float) for part in (rotation, translation, scale)))
