"""Object poses, quaternions, and gaussians transformed by a pose.

The convention everywhere is the stock pipeline's: row vectors, p_camera = (p_object * scale) @ R + t, where R is the
matrix of the quaternion `rotation` (w, x, y, z), in the PyTorch3D camera frame (+x left, +y up, +z forward). For
column vectors the rotation is R transposed, so the orientation g of a gaussian becomes conj(rotation) * g
(sam3d_objects: notebook/inference.py `make_scene`, data/dataset/tdfy/transforms_3d.py `compose_transform`).

Rotations use scipy; roma, the reference in the tests, would import torch's compiler and add a second to each command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy, transform_points
from fast_sam3d.geometry.gaussians import GaussianCloud

__all__ = [
    "GLB_FROM_CAMERA",
    "OPENCV_FROM_CAMERA",
    "Y_UP_FROM_Z_UP",
    "Pose",
    "matrices_of_unit_quaternions",
    "merge_gaussians",
    "object_to_camera",
    "place_gaussians",
    "pose_matrix",
    "quaternion_matrix",
]

OPENCV_FROM_CAMERA = np.diag([-1.0, -1.0, 1.0, 1.0])
"""PyTorch3D camera frame to +x right, +y down, +z forward."""
GLB_FROM_CAMERA = np.diag([-1.0, 1.0, -1.0, 1.0])
"""PyTorch3D camera frame to +x right, +y up, +z backward, the glTF camera frame."""
Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Object coordinates (+z up) to .glb coordinates (+y up), (x, y, z) -> (x, z, -y)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Position, orientation and size of an object, in the convention above.

    Args:
        rotation: [4] float64 unit quaternion (w, x, y, z).
        translation: [3] float64, units of the pointmap.
        scale: [3] float64, > 0, units of the pointmap per canonical unit.

    Raises:
        ValueError: a rotation of length zero, a scale that is not positive, or values that are not finite.
    """

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        norm = float(np.linalg.norm(self.rotation))
        known = all(np.isfinite(part).all() for part in (self.rotation, self.translation, self.scale))
        if not known or norm < 1e-12 or not (self.scale > 0).all():
            raise ValueError(
                "a pose needs a non-zero rotation and a positive scale, got "
                f"{self.rotation.tolist()} and {self.scale.tolist()}, at {self.translation.tolist()}"
            )
        object.__setattr__(self, "rotation", self.rotation / norm)

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Pose:
        """The pose in a pipeline's result, or in a pose.json: rotation, translation and scale."""
        scale = as_numpy(result["scale"], np.float64).reshape(-1)
        return cls(
            as_numpy(result["rotation"], np.float64).reshape(4),
            as_numpy(result["translation"], np.float64).reshape(3),
            np.broadcast_to(scale, (3,)).copy(),
        )

    @classmethod
    def from_matrix(cls, matrix: Any) -> Pose:
        """The pose of a [4, 4] object-to-camera matrix for column vectors, without shear; inverse of `matrix`."""
        from scipy.spatial.transform import Rotation

        upper = as_numpy(matrix, np.float64)[:3, :3]
        scale = np.linalg.norm(upper, axis=0)
        wxyz = np.roll(Rotation.from_matrix((upper / scale).T).as_quat(), 1)
        return cls(wxyz, as_numpy(matrix, np.float64)[:3, 3].copy(), scale)

    @property
    def rotation_matrix(self) -> NDArray[np.float64]:
        """[3, 3], for row vectors."""
        from scipy.spatial.transform import Rotation

        turn: NDArray[np.float64] = Rotation.from_quat(np.roll(self.rotation, -1)).as_matrix()
        return turn

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[4, 4] object-to-camera, for column vectors."""
        return object_to_camera(self.rotation_matrix, self.translation, self.scale)

    @property
    def glb_matrix(self) -> NDArray[np.float64]:
        """[4, 4] transform of a node in a scene's .glb, for a mesh in the coordinates of the object's own .glb."""
        product: NDArray[np.float64] = GLB_FROM_CAMERA @ self.matrix @ Y_UP_FROM_Z_UP.T
        return product


def matrices_of_unit_quaternions(quaternions: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 3, 3] rotation matrices of unit quaternions [..., 4] (w, x, y, z), pytorch3d's `quaternion_to_matrix`."""
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    rows = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.moveaxis(rows, (0, 1), (-2, -1))


def quaternion_matrix(quaternion: Any) -> NDArray[np.float64]:
    """[3, 3] rotation matrix of a quaternion (w, x, y, z) of any non-zero length.

    Raises:
        ValueError: the length is zero or not finite.
    """
    q = as_numpy(quaternion, np.float64).reshape(4)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-12:
        raise ValueError(f"rotation is not a quaternion: {q.tolist()}")
    return matrices_of_unit_quaternions(q / norm)


def object_to_camera(rotation: Any, translation: Any, scale: Any) -> NDArray[np.float64]:
    """[4, 4] matrix for column vectors of a rotation [3, 3] for row vectors, a translation [3] and a scale [3]."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(rotation).T * np.asarray(scale)
    matrix[:3, 3] = translation
    return matrix


def pose_matrix(result: Mapping[str, Any]) -> NDArray[np.float64]:
    """[4, 4] object-to-camera matrix for column vectors from a result's rotation, translation and scale.

    Its upper left block is R transposed times diag(scale), because results use row vectors. Unlike `Pose`, it accepts a
    scale of zero.
    """
    scale = np.broadcast_to(as_numpy(result["scale"], np.float64).reshape(-1), (3,))
    translation = as_numpy(result["translation"], np.float64).reshape(3)
    return object_to_camera(quaternion_matrix(result["rotation"]), translation, scale)


def place_gaussians(gaussians: Any, pose: Pose) -> GaussianCloud:
    """Transform gaussians from object to camera frame: centres, orientations and sizes.

    Args:
        gaussians: with the attributes of `GaussianCloud`.
        pose: a scale that differs between axes also changes the axes of each gaussian.
    """
    from scipy.spatial.transform import Rotation

    cloud = GaussianCloud.of(gaussians)
    turns = Rotation.from_quat(np.roll(cloud.get_rotation.astype(np.float64), -1, axis=1))
    sizes = cloud.get_scaling.astype(np.float64)
    if np.ptp(pose.scale) <= 1e-6 * pose.scale.max():
        turned = Rotation.from_quat(np.roll(pose.rotation, -1)).inv() * turns
        sizes = sizes * pose.scale.mean()
    else:
        # The transformed axes are no longer orthogonal: the new axes are the left singular vectors.
        axes = pose.matrix[:3, :3] @ (turns.as_matrix() * sizes[:, None, :])
        left, sizes, _ = np.linalg.svd(axes)
        left *= np.sign(np.linalg.det(left))[:, None, None]
        turned = Rotation.from_matrix(left)
    return GaussianCloud(
        get_xyz=transform_points(cloud.get_xyz, pose.matrix).astype(np.float32),
        get_scaling=sizes.astype(np.float32),
        get_rotation=np.roll(turned.as_quat(), 1, axis=1).astype(np.float32),
        get_opacity=cloud.get_opacity,
        _features_dc=cloud._features_dc,
    )


def merge_gaussians(clouds: Sequence[GaussianCloud]) -> GaussianCloud:
    """Concatenate clouds, in order.

    Raises:
        ValueError: no cloud.
    """
    if not clouds:
        raise ValueError("there are no gaussians to merge")
    names = ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc")
    merged: dict[str, Any] = {name: np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in names}
    return GaussianCloud(**merged)
