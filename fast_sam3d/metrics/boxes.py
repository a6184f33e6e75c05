"""Bounding boxes: the frame that shapes are compared in, and the overlap (IoU) of posed objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy, transform_points
from fast_sam3d.metrics.neighbours import Backend, check_backend

Frame: TypeAlias = Literal["unit_cube", "sam3d"]
FRAMES: dict[str, float] = {"unit_cube": 1.0, "sam3d": 2.0}
"""Frame to length of the longest side of the ground truth's box: [-0.5, 0.5], the default, and SAM 3D's [-1, 1]."""
FLAT = 1e-12  # volume, in units of the scene, below which a box counts as flat


@dataclass(frozen=True)
class UnitBox:
    """The similarity transform from an axis-aligned box to a frame centred at the origin.

    Attributes:
        centre: [3] float64.
        side: longest side of the box, > 0, divided by its length in the frame.
    """

    centre: np.ndarray
    side: float

    def __call__(self, points: Any) -> np.ndarray:
        """Normalise points [N, 3]."""
        return (as_numpy(points, np.float64) - self.centre) / self.side


def unit_box(points: Any, frame: Frame = "unit_cube") -> UnitBox:
    """Normalisation by the axis-aligned box of points [N, 3]: centred, longest side 1, or 2 in SAM 3D's frame.

    Raises:
        ValueError: no points, points without extent, or an unknown frame.
    """
    if frame not in FRAMES:
        raise ValueError(f"unknown frame {frame!r}: use one of {', '.join(FRAMES)}")
    low, high = box(points)
    side = float((high - low).max())
    if side <= 0:
        raise ValueError("the points have no extent, so they cannot be normalised")
    return UnitBox((low + high) / 2.0, side / FRAMES[frame])


def box(points: Any) -> np.ndarray:
    """[2, 3] float64: lower and upper corner of the axis-aligned box of points [N, 3]."""
    points = as_numpy(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"expected points [N, 3] with N > 0, got shape {points.shape}")
    return np.stack([points.min(axis=0), points.max(axis=0)])


def box_iou(first: Any, second: Any) -> float:
    """Intersection over union of two axis-aligned boxes [2, 3] (lower corner, upper corner); 0 where both are flat."""
    a, b = as_numpy(first, np.float64), as_numpy(second, np.float64)
    overlap = float(np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0.0, None).prod())
    union = float((a[1] - a[0]).prod() + (b[1] - b[0]).prod()) - overlap
    return overlap / union if union > 0 else 0.0


def layout_box_iou(vertices: Any, matrix: Any, truth_vertices: Any, truth_matrix: Any) -> float:
    """3D-IoU of the layout: axis-aligned boxes, in the camera frame, of two posed objects.

    Args:
        vertices, truth_vertices: [V, 3] canonical coordinates.
        matrix, truth_matrix: [4, 4] object to camera for column vectors (`fast_sam3d.geometry.poses.pose_matrix`).
    """
    posed = transform_points(vertices, matrix), transform_points(truth_vertices, truth_matrix)
    return box_iou(box(posed[0]), box(posed[1]))


def oriented_box_iou(
    vertices: Any, matrix: Any, truth_vertices: Any, truth_matrix: Any, backend: Backend = "scipy"
) -> float:
    """3D-IoU of oriented boxes: each object's box along its own axes, posed in the camera frame.

    Args:
        vertices, truth_vertices, matrix, truth_matrix: see `layout_box_iou`; the matrices have no shear.
        backend: "scipy" (half-space intersection and convex hull) or "pytorch3d" (`pytorch3d.ops.box3d_overlap`).

    Raises:
        ValueError: the backend has no box overlap or is not installed.
    """
    check_backend(backend, ("scipy", "pytorch3d"))
    first, second = (
        transform_points(corners(box(points)), turn)
        for points, turn in ((vertices, matrix), (truth_vertices, truth_matrix))
    )
    side = max(float(np.ptp(np.concatenate([first, second]), axis=0).max()), 1e-30)
    middle = first.mean(axis=0)
    # IoU is a ratio: in units of the scene, so that float32 and absolute tolerances fit every size.
    first, second = (first - middle) / side, (second - middle) / side
    volumes = [abs(float(np.linalg.det(c[[1, 3, 4]] - c[0]))) for c in (first, second)]
    if min(volumes) < FLAT:
        return 0.0
    if backend == "pytorch3d":
        import torch
        from pytorch3d.ops import box3d_overlap

        _, iou = box3d_overlap(*(torch.from_numpy(item).float()[None] for item in (first, second)))
        return float(iou[0, 0])
    overlap = _intersection_volume(first, second)
    return min(overlap / (volumes[0] + volumes[1] - overlap), 1.0)


def corners(limits: np.ndarray) -> np.ndarray:
    """[8, 3] corners of a box [2, 3]: around the lower face, then around the upper one (pytorch3d's order)."""
    around = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    return np.where(around == 1, limits[1], limits[0])


def _intersection_volume(first: np.ndarray, second: np.ndarray) -> float:
    """Volume of the intersection of two boxes given by their corners [8, 3]."""
    from scipy.optimize import linprog
    from scipy.spatial import ConvexHull, HalfspaceIntersection

    planes = np.concatenate([ConvexHull(first).equations, ConvexHull(second).equations])  # normal @ x + offset <= 0
    # The centre of the largest inscribed ball is the interior point that HalfspaceIntersection needs.
    radius = np.linalg.norm(planes[:, :3], axis=1, keepdims=True)
    found = linprog(
        [0, 0, 0, -1],
        A_ub=np.hstack([planes[:, :3], radius]),
        b_ub=-planes[:, 3],
        bounds=[(None, None)] * 3 + [(0, None)],
    )
    if not found.success or found.x[3] < 1e-9:
        return 0.0
    return float(ConvexHull(HalfspaceIntersection(planes, found.x[:3]).intersections).volume)
