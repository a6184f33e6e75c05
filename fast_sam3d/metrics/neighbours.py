"""Nearest neighbours and rigid alignment (ICP) of point sets.

The default backend is scipy, so that numbers do not depend on which optional packages are installed. pytorch3d and
kaolin, in float32, are used only where they are named.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy

Backend: TypeAlias = Literal["scipy", "pytorch3d", "kaolin"]
NEAREST: tuple[Backend, ...] = ("scipy", "pytorch3d", "kaolin")
"""Backends of `nearest_distances`; kaolin has neither ICP nor boxes."""
ICP_STEPS = 100


def check_backend(backend: Backend, valid: Sequence[Backend]) -> None:
    """Raises ValueError unless `backend` is one of `valid` and is installed; kaolin's kernels also need a GPU."""
    if backend not in valid:
        raise ValueError(f"backend {backend!r} is not available for this measure: use one of {', '.join(valid)}")
    if backend == "scipy":
        return
    try:
        importlib.import_module({"pytorch3d": "pytorch3d.ops", "kaolin": "kaolin.metrics.pointcloud"}[backend])
    except ImportError as error:
        raise ValueError(f"backend {backend!r} is not installed: install it, or use 'scipy'") from error
    if backend == "kaolin":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("backend kaolin needs a GPU: use 'scipy'")


def nearest_distances(points: Any, others: Any, backend: Backend = "scipy") -> np.ndarray:
    """[N] float64 distance from each of points [N, 3] to the nearest of others [M, 3].

    Args:
        backend: of `NEAREST`.

    Raises:
        ValueError: the backend is unknown or not installed.
    """
    check_backend(backend, NEAREST)
    points, others = as_numpy(points, np.float64), as_numpy(others, np.float64)
    if backend == "scipy":
        from scipy.spatial import cKDTree

        return cKDTree(others).query(points)[0]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = [torch.from_numpy(item).float().to(device)[None] for item in (points, others)]
    if backend == "pytorch3d":
        from pytorch3d.ops import knn_points

        squared = knn_points(*pair, K=1).dists[0, :, 0]
    else:
        from kaolin.metrics.pointcloud import sided_distance

        squared = sided_distance(*pair)[0][0]
    return as_numpy(squared, np.float64).clip(min=0.0) ** 0.5


def align(points: Any, target: Any, backend: Backend = "scipy") -> np.ndarray:
    """[N, 3] float64 points after the rigid motion onto target [M, 3] that ICP finds from their current position.

    No scale and no reflection. ICP finds a local optimum, in at most `ICP_STEPS` steps.

    Args:
        backend: "scipy" (`trimesh.registration.icp`) or "pytorch3d".

    Raises:
        ValueError: the backend has no ICP or is not installed.
    """
    check_backend(backend, ("scipy", "pytorch3d"))
    points, target = as_numpy(points, np.float64), as_numpy(target, np.float64)
    if backend == "pytorch3d":
        import torch
        from pytorch3d.ops import iterative_closest_point

        pair = [torch.from_numpy(item).float()[None] for item in (points, target)]
        turn, move, _ = iterative_closest_point(*pair, max_iterations=ICP_STEPS).RTs
        return points @ as_numpy(turn[0], np.float64) + as_numpy(move[0], np.float64)
    from trimesh.registration import icp

    # trimesh stops when its cost, the mean squared distance, falls by less than the threshold.
    spread = float(np.ptp(target, axis=0).max()) ** 2
    _, moved, _ = icp(points, target, threshold=1e-10 * spread, max_iterations=ICP_STEPS, reflection=False, scale=False)
    return np.asarray(moved, np.float64)
