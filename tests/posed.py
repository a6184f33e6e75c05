"""An object with a known pose, its mask and pointmap, and poses beside the true one."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from fast_sam3d.geometry.arrays import transform_points
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.metrics import rotation_error_deg
from fast_sam3d.refinement.pose import Solid
from fast_sam3d.render.renderer import nearest_faces

CAMERA = Camera(np.eye(3), np.zeros(3), 160.0, (80.0, 60.0), (120, 160))
TRUE = Pose(np.array([0.85, 0.1, 0.45, -0.2]), np.array([0.1, -0.05, 2.5]), np.full(3, 0.9))


def block() -> Solid:
    """Three boxes of different sizes in one dense mesh, without any symmetry."""
    import trimesh

    boxes = [trimesh.creation.box(sides) for sides in ((0.9, 0.25, 0.2), (0.25, 0.25, 0.6), (0.2, 0.6, 0.2))]
    for item, middle in zip(boxes, ((0, 0, -0.3), (-0.3, 0, 0), (0.35, 0.1, -0.3)), strict=True):
        item.apply_translation(middle)
    whole = trimesh.util.concatenate(boxes)
    for _ in range(5):
        whole = whole.subdivide()
    return Solid(np.asarray(whole.vertices), np.asarray(whole.faces))


SOLID = block()


def photograph(solid: Solid = SOLID, pose: Pose = TRUE, camera: Camera = CAMERA):
    """Mask [H, W] and pointmap [H, W, 3] of an object before a wall."""
    _, depth = nearest_faces(transform_points(solid.points, pose.matrix), solid.faces, camera)
    mask = np.isfinite(depth)
    depth = np.where(mask, depth, 6.0)
    v, u = np.mgrid[: camera.size[0], : camera.size[1]] + 0.5
    (cx, cy), focal = camera.principal, camera.focal
    return mask, np.stack([(cx - u) / focal * depth, (cy - v) / focal * depth, depth], -1)


def disturbed(turn=(0.08, -0.06, 0.1), shift=(0.04, -0.03, 0.05), growth=1.06, pose: Pose = TRUE) -> Pose:
    matrix = pose.rotation_matrix @ Rotation.from_rotvec(turn).as_matrix()
    wxyz = Rotation.from_matrix(matrix).as_quat()[[3, 0, 1, 2]]
    return Pose(wxyz, pose.translation + shift, pose.scale * growth)


def errors(pose: Pose, truth: Pose = TRUE) -> np.ndarray:
    """Degrees, distance, relative size."""
    return np.array([
        rotation_error_deg(pose.rotation_matrix, truth.rotation_matrix),
        np.linalg.norm(pose.translation - truth.translation),
        abs(pose.scale[0] / truth.scale[0] - 1),
    ])  # fmt: skip
