"""How close a reconstruction is to the truth: surface, occupancy and layout measures on plain arrays.

Distances between shapes are taken in the unit cube [-0.5, 0.5]^3 of the ground truth: `unit_box(truth)` is applied to
both shapes. SAM 3D's own protocol uses [-1, 1]; a threshold there is half of it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fast_sam3d.arrays import as_numpy, transform_points

SURFACE_POINTS = 10_000
F1_THRESHOLDS = (0.05, 0.01)  # the papers' tables: Fast-SAM3D's and SAM 3D's
WORST_CHAMFER = 2.0 * 3.0**0.5  # both directions across the unit cube's diagonal, given to an empty prediction

Symmetry = int | Literal["inf"] | Sequence[Any]


@dataclass(frozen=True)
class UnitBox:
    """The similarity that takes a box to [-0.5, 0.5]^3: longest side 1, centred.

    Attributes:
        centre: [3] float64.
        side: longest side of the box, > 0.
    """

    centre: np.ndarray
    side: float

    def __call__(self, points: Any) -> np.ndarray:
        """Normalise points [N, 3]."""
        return (as_numpy(points, np.float64) - self.centre) / self.side


def unit_box(points: Any) -> UnitBox:
    """Normalisation by the axis-aligned box of points [N, 3].

    Raises:
        ValueError: no points, or all in one place.
    """
    low, high = box(points)
    side = float((high - low).max())
    if side <= 0:
        raise ValueError("the points have no extent, so they cannot be normalised")
    return UnitBox((low + high) / 2.0, side)


def box(points: Any) -> np.ndarray:
    """[2, 3] float64: lower and upper corner of the axis-aligned box of points [N, 3]."""
    points = as_numpy(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"expected points [N, 3] with N > 0, got shape {points.shape}")
    return np.stack([points.min(axis=0), points.max(axis=0)])


# ----------------------------------------------------------------------------------------------------- surface


def sample_surface(mesh: Any, count: int = SURFACE_POINTS, seed: int = 0) -> np.ndarray:
    """Draw points uniformly by area from a triangle mesh.

    Args:
        mesh: object with vertices [V, 3] and faces [F, 3] (tensors or arrays).
        count: number of points.
        seed: of a generator of its own; the global ones are not touched.

    Returns:
        [count, 3] float64.

    Raises:
        ValueError: the mesh has no area.
    """
    corners = as_numpy(mesh.vertices, np.float64)[as_numpy(mesh.faces, np.int64).reshape(-1, 3)]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    total = area.sum()
    if not total > 0:
        raise ValueError("the mesh has no area to sample")
    random = np.random.default_rng(seed)
    cumulative = np.cumsum(area)
    face = np.searchsorted(cumulative, random.random(count) * cumulative[-1], side="right").clip(max=len(area) - 1)
    along = random.random((count, 2))
    along[along.sum(axis=1) > 1] = 1 - along[along.sum(axis=1) > 1]  # fold the far half of the parallelogram back
    return corners[face, 0] + (along[:, :, None] * edges[face]).sum(axis=1)


def nearest_distances(points: Any, others: Any) -> np.ndarray:
    """[N] distance from each of points [N, 3] to its nearest of others [M, 3]."""
    from scipy.spatial import cKDTree

    return cKDTree(as_numpy(others, np.float64)).query(as_numpy(points, np.float64))[0]


def chamfer(points: Any, truth: Any, squared: bool = False) -> float:
    """Sum of the two mean nearest-neighbour distances between point sets [N, 3] and [M, 3]."""
    there, back = nearest_distances(points, truth), nearest_distances(truth, points)
    return float((there**2).mean() + (back**2).mean()) if squared else float(there.mean() + back.mean())


def f1(points: Any, truth: Any, tau: float) -> float:
    """Harmonic mean of precision (points within tau of the truth) and recall (truth within tau of the points)."""
    return _f1(nearest_distances(points, truth), nearest_distances(truth, points), tau)


def _f1(there: np.ndarray, back: np.ndarray, tau: float) -> float:
    precision, recall = float((there <= tau).mean()), float((back <= tau).mean())
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def compare_meshes(mesh: Any, truth: Any, count: int = SURFACE_POINTS, seed: int = 0) -> dict[str, float]:
    """All surface measures of one mesh against its ground truth, both in the truth's unit cube.

    Args:
        mesh, truth: objects with vertices [V, 3] and faces [F, 3] in one frame. None or a mesh without faces counts as
            a failure: F1 0 and `WORST_CHAMFER`.
        count, seed: see `sample_surface`; the two meshes get different seeds derived from `seed`, so that equal meshes
            do not score a distance of zero by equal draws.

    Returns:
        chamfer, chamfer_squared, f1@0.05, f1@0.01.
    """
    normalise = unit_box(truth.vertices)
    names = [f"f1@{tau:g}" for tau in F1_THRESHOLDS]
    if mesh is None or len(mesh.faces) == 0:
        return {"chamfer": WORST_CHAMFER, "chamfer_squared": WORST_CHAMFER**2 / 2.0, **dict.fromkeys(names, 0.0)}
    points = normalise(sample_surface(mesh, count, 2 * seed + 1))
    target = normalise(sample_surface(truth, count, 2 * seed))
    there, back = nearest_distances(points, target), nearest_distances(target, points)
    return {
        "chamfer": float(there.mean() + back.mean()),
        "chamfer_squared": float((there**2).mean() + (back**2).mean()),
        **{name: _f1(there, back, tau) for name, tau in zip(names, F1_THRESHOLDS, strict=True)},
    }


# --------------------------------------------------------------------------------------------------- occupancy


def voxel_iou(coords: Any, truth: Any) -> float:
    """|A and B| / |A or B| of two sets of integer voxels [N, C] and [M, C]; repeated rows count once, empty ones 1.

    Columns are compared as they are: [N, 3] (x, y, z) or [N, 4] (batch, x, y, z), the same in both.
    """
    first, second = (np.unique(as_numpy(item, np.int64), axis=0) for item in (coords, truth))
    if first.ndim != 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(f"voxel sets of different shape: {first.shape} and {second.shape}")
    union = len(np.unique(np.concatenate([first, second]), axis=0))
    return (len(first) + len(second) - union) / union if union else 1.0


# ------------------------------------------------------------------------------------------------------ layout


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
        matrix, truth_matrix: [4, 4] object to camera for column vectors (`fast_sam3d.export.pose_matrix`).
    """
    posed = transform_points(vertices, matrix), transform_points(truth_vertices, truth_matrix)
    return box_iou(box(posed[0]), box(posed[1]))


def rotation_error_deg(rotation: Any, truth: Any, symmetry: Symmetry = 1) -> float:
    """Smallest angle in degrees (0..180) between a rotation and any that shows the same object.

    Args:
        rotation, truth: [3, 3] for row vectors, p_camera = p_object @ R.
        symmetry: turns S of the object that leave it unchanged, p_object @ S; S @ truth is then as right as truth.
            An integer n: n-fold about the object's z axis. "inf" or 0: any angle about z, so only the axis counts.
            A sequence of [3, 3] rotations: these and the identity.
    """
    r, g = as_numpy(rotation, np.float64), as_numpy(truth, np.float64)
    if isinstance(symmetry, str) and symmetry != "inf":
        raise ValueError(f"symmetry must be an integer, 'inf' or rotations, got {symmetry!r}")
    if isinstance(symmetry, (str, int, np.integer)) and symmetry in ("inf", 0):
        # The best turn about z brings everything but the axis into line, so the axes' angle is what is left.
        return _angle_deg(float(np.linalg.norm(np.cross(r[2], g[2]))), float(r[2] @ g[2]))
    if isinstance(symmetry, (int, np.integer)):
        if symmetry < 0:
            raise ValueError(f"n-fold symmetry needs n >= 0, got {symmetry}")
        turns = [_turn_about_z(2.0 * np.pi * k / symmetry) for k in range(symmetry)]
    else:
        turns = [np.eye(3), *(as_numpy(item, np.float64) for item in symmetry)]
    relative = [r.T @ (turn @ g) for turn in turns]
    # From sine and cosine: arccos alone loses small angles (1e-8 in the cosine is 1e-2 degrees).
    return min(
        _angle_deg(float(np.linalg.norm([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])), np.trace(m) - 1.0)
        for m in relative
    )


def _angle_deg(sine: float, cosine: float) -> float:
    """Angle in degrees from values proportional to its sine (>= 0) and cosine."""
    return float(np.degrees(np.arctan2(sine, cosine)))


def _turn_about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


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


# ------------------------------------------------------------------------------------------------------- means


RESAMPLES = 2000


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean of values [N] and its standard error; entries that are not finite are left out.

    Returns:
        (mean, error); both NaN without a finite value, the error NaN with only one.
    """
    known = _finite(values)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan")
    return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))


def median_and_error(values: Any, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Median of values [N] and its standard error by the bootstrap (Efron, 1979), as no formula fits every spread.

    Args:
        values: entries that are not finite are left out.
        resamples: draws of N values with replacement; the error is the deviation of their medians.
        seed: of a generator of its own.

    Returns:
        as `mean_and_error`.
    """
    known = _finite(values)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan")
    random = np.random.default_rng(seed)
    medians = [np.median(known[random.integers(len(known), size=len(known))]) for _ in range(resamples)]
    return float(np.median(known)), float(np.std(medians, ddof=1))


def _finite(values: Any) -> np.ndarray:
    known = as_numpy(values, np.float64).reshape(-1)
    return known[np.isfinite(known)]
