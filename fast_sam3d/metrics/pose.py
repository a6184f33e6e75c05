"""Pose errors: rotation, translation, scale, and ADD-S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy, transform_points
from fast_sam3d.metrics.boxes import box
from fast_sam3d.metrics.neighbours import Backend, nearest_distances

Symmetry: TypeAlias = int | Literal["inf"] | Sequence[Any]


def rotation_error_deg(rotation: Any, truth: Any, symmetry: Symmetry = 1) -> float:
    """Smallest angle in degrees (0..180) between a rotation and any equivalent one under the object's symmetries.

    Args:
        rotation, truth: [3, 3] for row vectors, p_camera = p_object @ R.
        symmetry: rotations S that map the object onto itself, p_object @ S; S @ truth is then equivalent to truth.
            An integer n: n-fold about the object's z axis. "inf" or 0: any angle about z, so only the axis matters.
            A sequence of [3, 3] rotations: these and the identity.
    """
    from scipy.spatial.transform import Rotation

    r, g = as_numpy(rotation, np.float64), as_numpy(truth, np.float64)
    if isinstance(symmetry, str) and symmetry != "inf":
        raise ValueError(f"symmetry must be an integer, 'inf' or rotations, got {symmetry!r}")
    if isinstance(symmetry, (str, int, np.integer)) and symmetry in ("inf", 0):
        # The best rotation about z aligns everything but the axis, so the angle between the axes remains.
        # arctan2 of sine and cosine: arccos alone loses small angles.
        return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(r[2], g[2])), r[2] @ g[2])))
    if isinstance(symmetry, (int, np.integer)):
        if symmetry < 0:
            raise ValueError(f"n-fold symmetry needs n >= 0, got {symmetry}")
        turns = Rotation.from_euler("z", 360.0 / symmetry * np.arange(symmetry)[:, None], degrees=True).as_matrix()
    else:
        turns = np.stack([np.eye(3), *(as_numpy(item, np.float64) for item in symmetry)])
    return float(np.degrees(Rotation.from_matrix(r.T @ turns @ g).magnitude().min()))


def translation_error(translation: Any, truth: Any, diameter: float) -> float:
    """Distance between two translations [3] in units of the posed object's diameter (its box's diagonal)."""
    if not diameter > 0:
        raise ValueError(f"diameter must be positive, got {diameter}")
    difference = as_numpy(translation, np.float64).reshape(3) - as_numpy(truth, np.float64).reshape(3)
    return float(np.linalg.norm(difference) / diameter)


def scale_error(scale: Any, truth: Any) -> float:
    """Mean over the axes of |scale / truth - 1|; scale and truth are [3] or one number, truth > 0."""
    ratio = as_numpy(scale, np.float64).reshape(-1) / as_numpy(truth, np.float64).reshape(-1)
    return float(np.abs(ratio - 1.0).mean())


def add_s(points: Any, matrix: Any, truth_points: Any, truth_matrix: Any, backend: Backend = "scipy") -> float:
    """ADD-S: mean distance between nearest points of two posed objects, over the ground truth's diameter.

    The mean of both directions, as in SAM 3D's protocol, so that the two shapes may differ. Equivalent poses of a
    symmetric object score alike. A pose below 0.1 is usually counted as correct.

    Args:
        points, truth_points: [N, 3] and [M, 3] on the surfaces, canonical coordinates.
        matrix, truth_matrix: [4, 4] object to camera for column vectors (`fast_sam3d.geometry.poses.pose_matrix`).
        backend: see `fast_sam3d.metrics.neighbours`.

    Source: average distance for symmetric objects of PoseCNN (arXiv 1711.00199). It takes one direction only, because
    both sides are the same model there.
    """
    posed, truth = transform_points(points, matrix), transform_points(truth_points, truth_matrix)
    there, back = nearest_distances(posed, truth, backend), nearest_distances(truth, posed, backend)
    return float((there.mean() + back.mean()) / 2.0 / posed_diameter(truth_points, truth_matrix))


def posed_diameter(points: Any, matrix: Any) -> float:
    """Diagonal of the bounding box of points [N, 3] in the object's own axes, scaled by its pose [4, 4].

    Raises:
        ValueError: the object has no extent.
    """
    low, high = box(points)
    diagonal = as_numpy(matrix, np.float64)[:3, :3] @ np.diag(high - low)
    # Each column is a side of the rotated box; the sides stay orthogonal.
    diameter = float(np.linalg.norm(diagonal))
    if not diameter > 0:
        raise ValueError("the object has no extent, so errors cannot be measured in its diameters")
    return diameter
