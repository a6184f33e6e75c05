"""Nearest neighbours and alignment of point sets, by the library that is there.

pytorch3d where it is importable, else kaolin for neighbours where it is importable and torch sees a GPU (its kernels
know no CPU), else scipy and trimesh. All give the same numbers up to float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy

Backend: TypeAlias = Literal["auto", "pytorch3d", "kaolin", "scipy"]
ALL: tuple[Backend, ...] = ("pytorch3d", "kaolin", "scipy")
ICP_STEPS = 100


def chosen(backend: Backend, able: Sequence[Backend]) -> Backend:
    """The backend to use.

    Args:
        backend: what was asked for; "auto" takes the first of `able` that is there.
        able: those that can do what is needed, best first; "scipy" is always there.

    Raises:
        ValueError: one that is not there, or cannot do it.
    """
    if backend == "auto":
        return next(name for name in able if _there(name))
    if backend not in able:
        raise ValueError(f"backend {backend!r} cannot do this: valid are auto, {', '.join(able)}")
    if not _there(backend):
        raise ValueError(f"backend {backend!r} is not there: install it (kaolin needs a GPU too), or take 'auto'")
    return backend


def _there(backend: Backend) -> bool:
    if backend == "scipy":
        return True
    try:
        importlib.import_module({"pytorch3d": "pytorch3d.ops", "kaolin": "kaolin.metrics.pointcloud"}[backend])
    except ImportError:
        return False
    if backend == "kaolin":
        import torch

        return torch.cuda.is_available()
    return True


def nearest_distances(points: Any, others: Any, backend: Backend = "auto") -> np.ndarray:
    """[N] float64 distance from each of points [N, 3] to its nearest of others [M, 3].

    Args:
        backend: see the module.

    Raises:
        ValueError: a backend that is not there.
    """
    name = chosen(backend, ALL)
    points, others = as_numpy(points, np.float64), as_numpy(others, np.float64)
    if name == "scipy":
        from scipy.spatial import cKDTree

        return cKDTree(others).query(points)[0]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = [torch.from_numpy(item).float().to(device)[None] for item in (points, others)]
    if name == "pytorch3d":
        from pytorch3d.ops import knn_points

        squared = knn_points(*pair, K=1).dists[0, :, 0]
    else:
        from kaolin.metrics.pointcloud import sided_distance

        squared = sided_distance(*pair)[0][0]
    return as_numpy(squared, np.float64).clip(min=0.0) ** 0.5


def align(points: Any, target: Any, backend: Backend = "auto") -> np.ndarray:
    """[N, 3] float64 points, moved onto a target [M, 3] by a rigid motion found by ICP from where they are.

    Neither scale nor reflection. A local optimum: what starts far off may stay so. At most `ICP_STEPS` steps.

    Args:
        backend: "pytorch3d" or "scipy" (which stands for trimesh's, on scipy's trees); "auto" the first that is there.

    Raises:
        ValueError: a backend that is not there, or knows no ICP.
    """
    name = chosen(backend, ("pytorch3d", "scipy"))
    points, target = as_numpy(points, np.float64), as_numpy(target, np.float64)
    if name == "pytorch3d":
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
