"""Distances between surfaces from points sampled on them: chamfer and F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.metrics.boxes import FRAMES, Frame, unit_box
from fast_sam3d.metrics.neighbours import Backend, align, nearest_distances

SURFACE_POINTS = 10_000
F1_THRESHOLDS = (0.05, 0.01)  # as in the tables of the papers: Fast-SAM3D and SAM 3D
WORST_CHAMFER = 2.0 * 3.0**0.5  # score of an empty prediction: twice the diagonal of the unit cube


def sample_surface(mesh: Any, count: int = SURFACE_POINTS, seed: int = 0) -> np.ndarray:
    """Sample points uniformly by area on a triangle mesh.

    Args:
        mesh: object with vertices [V, 3] and faces [F, 3] (tensors or arrays).
        count: number of points.
        seed: of a separate generator; the global ones are not used.

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


def chamfer(points: Any, truth: Any, squared: bool = False) -> float:
    """Sum of the two mean nearest-neighbour distances between point sets [N, 3] and [M, 3], or of their squares."""
    there, back = nearest_distances(points, truth), nearest_distances(truth, points)
    return float((there**2).mean() + (back**2).mean()) if squared else float(there.mean() + back.mean())


def f1(points: Any, truth: Any, tau: float) -> float:
    """Harmonic mean of precision (points within tau of truth) and recall (truth within tau of points)."""
    return _f1(nearest_distances(points, truth), nearest_distances(truth, points), tau)


def _f1(there: np.ndarray, back: np.ndarray, tau: float) -> float:
    precision, recall = float((there <= tau).mean()), float((back <= tau).mean())
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def compare_meshes(
    mesh: Any,
    truth: Any,
    count: int = SURFACE_POINTS,
    seed: int = 0,
    *,
    taus: Sequence[float] = F1_THRESHOLDS,
    frame: Frame = "unit_cube",
    icp: bool = False,
    backend: Backend = "scipy",
) -> dict[str, float]:
    """All surface measures of a mesh against its ground truth, both in the frame of the ground truth's box.

    Args:
        mesh, truth: objects with vertices [V, 3] and faces [F, 3] in one frame. None or a mesh without faces
            is a failed prediction: F1 0 and `worst_chamfer`.
        count, seed: see `sample_surface`; each mesh has its own seed derived from `seed`, so that equal meshes do
            not score zero because of equal samples.
        taus: F1 thresholds, in units of the frame.
        frame: "unit_cube", [-0.5, 0.5] along the longest side of the ground truth, or "sam3d", [-1, 1]: lengths are
            doubled, so the same tau is twice as strict.
        icp: align the mesh to the ground truth first (`fast_sam3d.metrics.align`).
        backend: of nearest neighbours and ICP; with kaolin, ICP uses scipy.

    Returns:
        chamfer, chamfer_squared, and f1@<tau> for each.
    """
    normalise = unit_box(truth.vertices, frame)
    names = [f"f1@{tau:g}" for tau in taus]
    if mesh is None or len(mesh.faces) == 0:
        worst = worst_chamfer(frame)
        return {"chamfer": worst, "chamfer_squared": worst**2 / 2.0, **dict.fromkeys(names, 0.0)}
    points = normalise(sample_surface(mesh, count, 2 * seed + 1))
    target = normalise(sample_surface(truth, count, 2 * seed))
    if icp:
        points = align(points, target, "scipy" if backend == "kaolin" else backend)
    there, back = nearest_distances(points, target, backend), nearest_distances(target, points, backend)
    return {
        "chamfer": float(there.mean() + back.mean()),
        "chamfer_squared": float((there**2).mean() + (back**2).mean()),
        **{name: _f1(there, back, tau) for name, tau in zip(names, taus, strict=True)},
    }


def largest_offset(mesh: Any, truth: Any, count: int = SURFACE_POINTS) -> float:
    """How far the farthest hundredth of two surfaces is from the other one, in longest sides of the truth's box.

    Distances between samples are above 0 on equal surfaces, too: what is within twice of that counts as 0.

    Args, Raises: as `compare_meshes` and `sample_surface`.
    """
    normalise = unit_box(truth.vertices, "unit_cube")
    points, target, again = (
        normalise(sample_surface(each, count, seed)) for seed, each in enumerate((mesh, truth, truth))
    )

    def farthest(some: np.ndarray, others: np.ndarray) -> float:
        return float(np.quantile(nearest_distances(some, others), 0.99))

    offset = max(farthest(points, target), farthest(target, points))
    return offset if offset > 2 * farthest(again, target) else 0.0


def worst_chamfer(frame: Frame = "unit_cube") -> float:
    """Score of an empty prediction: twice the diagonal of the frame."""
    return WORST_CHAMFER * FRAMES[frame]
