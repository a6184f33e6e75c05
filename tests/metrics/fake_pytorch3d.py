"""A stand-in for pytorch3d's neighbours, ICP and box overlap, with its signatures, shapes and precision.

pytorch3d has no wheels for most machines, so the calls to it would not be tested otherwise.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

KNN = namedtuple("KNN", "dists idx knn")
Similarity = namedtuple("Similarity", "R T s")
Solution = namedtuple("Solution", "converged rmse Xt RTs t_history")


def knn_points(p1: Tensor, p2: Tensor, lengths1=None, lengths2=None, norm: int = 2, K: int = 1) -> KNN:
    """dists [B, N, K] are squared."""
    assert p1.dtype == p2.dtype == torch.float32 and p1.dim() == p2.dim() == 3
    # Not cdist: its products lose the last digits of near points.
    squared = torch.stack([((point - p2[0]) ** 2).sum(-1) for point in p1[0]])[None]
    dists, idx = squared.topk(K, largest=False)
    return KNN(dists, idx, None)


def iterative_closest_point(
    X: Tensor, Y: Tensor, init_transform=None, max_iterations: int = 100, relative_rmse_thr: float = 1e-6
) -> Solution:
    """Xt = s X R + T, row vectors; no scale, no reflection."""
    assert X.dtype == Y.dtype == torch.float32 and X.dim() == Y.dim() == 3
    moved, rotation, shift, last = X[0], torch.eye(3), torch.zeros(3), None
    for _ in range(max_iterations):
        near = Y[0][knn_points(moved[None], Y).idx[0, :, 0]]
        centre, other = X[0].mean(0), near.mean(0)
        u, _, vt = torch.linalg.svd((X[0] - centre).T @ (near - other))
        flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt).sign())]))
        rotation = u @ flip @ vt
        shift = other - centre @ rotation
        moved = X[0] @ rotation + shift
        rmse = ((moved - near) ** 2).sum(-1).mean().sqrt()
        if last is not None and (last - rmse) / last <= relative_rmse_thr:
            break
        last = rmse
    return Solution(True, rmse[None], moved[None], Similarity(rotation[None], shift[None], torch.ones(1)), [])


def box3d_overlap(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Counts lattice points in both boxes: slow, accurate to 1e-2, and independent of our implementation."""
    assert boxes1.shape[1:] == boxes2.shape[1:] == (8, 3) and boxes1.dtype == torch.float32
    order = [[0, 1, 2, 3], [3, 2, 6, 7], [0, 1, 5, 4], [0, 3, 7, 4], [1, 2, 6, 5], [4, 5, 6, 7]]
    for box in (boxes1[0], boxes2[0]):
        for face in order:
            a, b, c, d = box[face]
            assert abs(float(torch.linalg.cross(b - a, c - a) @ (d - a))) < eps, "Plane vertices are not coplanar"
    both = np.concatenate([boxes1[0].numpy(), boxes2[0].numpy()])
    low, high = both.min(0), both.max(0)
    axes = [low[k] + (np.arange(90) + 0.5) / 90 * (high[k] - low[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    first, second = (_inside(points, box[0].numpy()) for box in (boxes1, boxes2))
    cell = float(np.prod(high - low)) / len(points)
    volume, union = (first & second).sum() * cell, (first | second).sum() * cell
    return torch.tensor([[volume]]), torch.tensor([[volume / union]])


def _inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    sides = box[[1, 3, 4]] - box[0]
    along = np.linalg.solve(sides.T, (points - box[0]).T)
    return ((along >= 0) & (along <= 1)).all(0)


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make `pytorch3d.ops` importable for one test; `called` lists the functions that were called."""
    ops, package = ModuleType("pytorch3d.ops"), ModuleType("pytorch3d")
    ops.called = []

    def noted(call):
        def wrapper(*args, **kwargs):
            ops.called.append(call.__name__)
            return call(*args, **kwargs)

        return wrapper

    for call in (knn_points, iterative_closest_point, box3d_overlap):
        setattr(ops, call.__name__, noted(call))
    package.ops = ops
    monkeypatch.setitem(sys.modules, "pytorch3d", package)
    monkeypatch.setitem(sys.modules, "pytorch3d.ops", ops)
    return ops
