"""Poses as `pose.json` files."""

import json

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d.geometry.poses import pose_matrix
from fast_sam3d.outputs.pose import save_pose_json

HALF = np.sqrt(0.5)
POSE = {  # a quarter turn about z (w, z), doubled, three metres ahead
    "rotation": torch.tensor([[HALF, 0.0, 0.0, HALF]]),
    "translation": torch.tensor([[0.1, -0.2, 3.0]]),
    "scale": torch.tensor([[2.0, 2.0, 2.0]]),
}


def test_pose_matrix_by_hand():
    # R = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]; on row vectors (1, 0, 0) @ R = (0, -1, 0).
    moved = pose_matrix(POSE) @ [1.0, 0.0, 0.0, 1.0]
    assert np.allclose(moved, [0.1, -2.2, 3.0, 1.0])


def test_pose_matrix_is_the_documented_row_vector_form(tmp_path):
    random = np.random.default_rng(3)
    result = {
        "rotation": random.normal(size=(1, 4)),
        "translation": random.normal(size=(1, 3)),
        "scale": random.uniform(0.5, 2, (1, 3)),
    }
    save_pose_json(tmp_path / "pose.json", result)
    pose = json.loads((tmp_path / "pose.json").read_text())
    points = random.normal(size=(7, 3))
    rows = (points * pose["scale"]) @ np.array(pose["rotation_matrix"]) + pose["translation"]
    columns = points @ pose_matrix(result)[:3, :3].T + pose_matrix(result)[:3, 3]
    assert np.allclose(rows, columns) and np.allclose(pose["object_to_camera"], pose_matrix(result))
    opencv = np.array(pose["object_to_camera_opencv"]) @ [*points[0], 1]
    assert np.allclose(opencv[:3], rows[0] * [-1, -1, 1])
    quaternion = trimesh.transformations.quaternion_matrix(pose["rotation"])[:3, :3]
    assert np.allclose(quaternion, pose["rotation_matrix"]) and np.isclose(np.linalg.norm(pose["rotation"]), 1.0)
    assert "+y up" in pose["camera_frame"] and "z up" in pose["object_frame"] and "@" in pose["convention"]


def test_pose_without_a_rotation_is_refused():
    with pytest.raises(ValueError, match="quaternion"):
        pose_matrix({**POSE, "rotation": torch.zeros(1, 4)})
