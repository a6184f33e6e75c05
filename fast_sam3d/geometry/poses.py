"""Objects at their places: poses, and gaussians and meshes moved by them.

One convention everywhere, the stock pipeline's: row vectors, p_camera = (p_object * scale) @ R + t, where R is the
matrix of the quaternion `rotation` (w, x, y, z), in the PyTorch3D camera frame (+x left, +y up, +z forward). Seen as a
motion of column vectors the object is turned by R transposed, so a gaussian's own turn g becomes conj(rotation) * g
(sam3d_objects: notebook/inference.py `make_scene`, data/dataset/tdfy/transforms_3d.py `compose_transform`).

Rotations are scipy's. roma, which the tests hold them to, imports torch's compiler, a second for every command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy, transform_points
from fast_sam3d.geometry.gaussians import GaussianCloud

__all__ = ["GLB_FROM_CAMERA", "OPENCV_FROM_CAMERA", "Y_UP_FROM_Z_UP", "Pose", "merge_gaussians", "place_gaussians"]

OPENCV_FROM_CAMERA = np.diag([-1.0, -1.0, 1.0, 1.0])
"""PyTorch3D camera frame to +x right, +y down, +z forward."""
GLB_FROM_CAMERA = np.diag([-1.0, 1.0, -1.0, 1.0])
"""PyTorch3D camera frame to +x right, +y up, +z backward, which is how glTF sees the world from its camera."""
Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Object coordinates to those of the .glb files, (x, y, z) -> (x, z, -y)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Where an object is; the convention is the module's.

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
                "a pose needs a rotation that is not zero and a positive scale, got "
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
        """The pose of an object-to-camera matrix for column vectors [4, 4] without shear; undoes `matrix`."""
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
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation_matrix.T * self.scale
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def glb_matrix(self) -> NDArray[np.float64]:
        """[4, 4] of a node of a scene's .glb whose mesh is in the coordinates of the object's own .glb."""
        product: NDArray[np.float64] = GLB_FROM_CAMERA @ self.matrix @ Y_UP_FROM_Z_UP.T
        return product


def place_gaussians(gaussians: Any, pose: Pose) -> GaussianCloud:
    """Gaussians of an object in the camera's frame: centres, turns and sizes; colours and opacities stay.

    Args:
        gaussians: with the attributes of `GaussianCloud`.
        pose: a scale that differs between axes changes the gaussians' own axes.
    """
    from scipy.spatial.transform import Rotation

    cloud = GaussianCloud.of(gaussians)
    turns = Rotation.from_quat(np.roll(cloud.get_rotation.astype(np.float64), -1, axis=1))
    sizes = cloud.get_scaling.astype(np.float64)
    if np.ptp(pose.scale) <= 1e-6 * pose.scale.max():
        turned = Rotation.from_quat(np.roll(pose.rotation, -1)).inv() * turns
        sizes = sizes * pose.scale.mean()
    else:
        # The images of a gaussian's axes are no longer at right angles: its new axes are the left singular vectors.
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
    """Several clouds as one, in their order.

    Raises:
        ValueError: no cloud.
    """
    if not clouds:
        raise ValueError("there are no gaussians to merge")
    names = ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc")
    merged: dict[str, Any] = {name: np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in names}
    return GaussianCloud(**merged)
