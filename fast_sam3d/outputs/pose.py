"""Poses as `pose.json` files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.poses import OPENCV_FROM_CAMERA, pose_matrix, quaternion_matrix
from fast_sam3d.outputs.files import save_json

__all__ = ["CAMERA_FRAME", "OBJECT_FRAME", "POSE_CONVENTION", "save_pose_json"]

CAMERA_FRAME = "PyTorch3D: +x left, +y up, +z forward (into the picture), same units as the pointmap"
OBJECT_FRAME = "canonical cube [-0.5, 0.5]^3, +z up"
POSE_CONVENTION = (
    "rotation is a quaternion (w, x, y, z) and rotation_matrix is its matrix R, used on row vectors: "
    "p_camera = (p_object * scale) @ rotation_matrix + translation. "
    "object_to_camera is the same map for column vectors: [p_camera, 1] = object_to_camera @ [p_object, 1]. "
    "object_to_camera_opencv goes to +x right, +y down, +z forward instead. "
    "The .ply holds object coordinates; the .glb holds them turned to +y up, (x, y, z) -> (x, z, -y)."
)


def save_pose_json(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Write the pose of one object, with its conventions stated in the file (`POSE_CONVENTION`).

    Args:
        result: with rotation [1, 4] wxyz, translation [1, 3], scale [1, 3].
    """
    matrix = pose_matrix(result)
    quaternion = as_numpy(result["rotation"], np.float64).reshape(4)
    pose = {
        "rotation": quaternion / np.linalg.norm(quaternion),
        "rotation_matrix": quaternion_matrix(quaternion),
        "translation": matrix[:3, 3],
        "scale": np.broadcast_to(as_numpy(result["scale"], np.float64).reshape(-1), (3,)),
        "object_to_camera": matrix,
        "object_to_camera_opencv": OPENCV_FROM_CAMERA @ matrix,
        "object_frame": OBJECT_FRAME,
        "camera_frame": CAMERA_FRAME,
        "convention": POSE_CONVENTION,
    }
    save_json(path, pose)
