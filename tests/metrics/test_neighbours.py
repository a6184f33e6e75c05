"""Every backend gives the same numbers, and the default is always scipy."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from fast_sam3d import metrics
from fast_sam3d.metrics.neighbours import NEAREST, check_backend, nearest_distances
from tests.metrics import fake_pytorch3d

REAL = importlib.util.find_spec("pytorch3d") is not None


@pytest.fixture(params=["real", "fake"])
def pytorch3d(request, monkeypatch):
    """The library where it is installed, and its stand-in everywhere."""
    if request.param == "fake":
        return fake_pytorch3d.install(monkeypatch)
    return pytest.importorskip("pytorch3d.ops")


@pytest.fixture
def points():
    random = np.random.default_rng(3)
    return random.random((150, 3)), random.random((170, 3))


def turned(points, degrees=8.0, move=(0.02, -0.01, 0.03)):
    return points @ Rotation.from_euler("xyz", [degrees, -degrees, degrees / 2], degrees=True).as_matrix() + move


def test_distances_equal_brute_force(points):
    first, second = points
    brute = np.array([min(np.linalg.norm(p - q) for q in second) for p in first])
    assert np.allclose(nearest_distances(first, second, "scipy"), brute, atol=1e-12)


def test_backends_give_the_same_distances(points, pytorch3d):
    first, second = points
    ours, theirs = (nearest_distances(first, second, name) for name in ("scipy", "pytorch3d"))
    assert theirs.dtype == np.float64 and np.allclose(ours, theirs, atol=1e-6)
    same = nearest_distances(first, first, "pytorch3d")
    assert np.isfinite(same).all() and np.allclose(same, 0.0, atol=1e-3)


def test_backends_give_the_same_alignment(pytorch3d):
    target = trimesh.creation.box((1.0, 0.6, 0.3)).subdivide().subdivide().vertices
    moved = turned(target)
    for name in ("scipy", "pytorch3d"):
        back = metrics.align(moved, target, name)
        assert np.allclose(back, target, atol=1e-4), name
        assert np.isclose(np.linalg.norm(back[0] - back[9]), np.linalg.norm(target[0] - target[9]), atol=1e-5)


def test_alignment_neither_scales_nor_mirrors():
    target = trimesh.creation.box((1.0, 0.6, 0.3)).subdivide().subdivide().vertices
    assert np.isclose(np.ptp(metrics.align(target * 1.3, target, "scipy"), axis=0).max(), 1.3, atol=1e-3)
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, 0, 0.2], [0.9, 0.1, 0.0]])
    mirrored = corner * [1, 1, -1]
    assert np.abs(metrics.align(mirrored, corner, "scipy") - corner).max() > 0.05


def test_measures_use_the_backend(pytorch3d):
    first, second = trimesh.creation.icosphere(subdivisions=3), trimesh.creation.box((1.7, 1.7, 1.7))
    ours, theirs = (metrics.compare_meshes(first, second, 300, backend=name) for name in ("scipy", "pytorch3d"))
    assert ours.keys() == theirs.keys() and all(np.isclose(ours[k], theirs[k], atol=1e-5) for k in ours)
    aligned = [metrics.compare_meshes(first, second, 300, icp=True, backend=name) for name in ("scipy", "pytorch3d")]
    assert all(np.isclose(aligned[0][k], aligned[1][k], atol=5e-3) for k in ours)


def test_the_default_does_not_depend_on_installed_packages(monkeypatch, points):
    expected = nearest_distances(*points, "scipy"), metrics.align(*points, "scipy")
    ops = fake_pytorch3d.install(monkeypatch)
    np.testing.assert_array_equal(nearest_distances(*points), expected[0])
    np.testing.assert_array_equal(metrics.align(*points), expected[1])
    box = trimesh.creation.box((1.0, 0.6, 0.3))
    metrics.compare_meshes(box, box, 100, icp=True)
    metrics.oriented_box_iou(box.vertices, np.eye(4), box.vertices, np.eye(4))
    assert ops.called == []
    nearest_distances(*points, "pytorch3d")
    metrics.align(*points, "pytorch3d")
    assert ops.called == ["knn_points", "iterative_closest_point"]


@pytest.mark.skipif(REAL, reason="pytorch3d is installed")
def test_a_backend_that_is_not_installed_is_refused(points):
    with pytest.raises(ValueError, match="'pytorch3d' is not installed: install it, or use 'scipy'"):
        nearest_distances(*points, "pytorch3d")


def test_kaolin_needs_a_gpu(monkeypatch, points):
    fake = ModuleType("kaolin.metrics.pointcloud")
    fake.sided_distance = lambda p1, p2: (fake_pytorch3d.knn_points(p1, p2).dists[..., 0], None)
    for name in ("kaolin", "kaolin.metrics"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "kaolin.metrics.pointcloud", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="kaolin needs a GPU"):
        nearest_distances(*points, "kaolin")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_backend("kaolin", NEAREST)
    # Tensors move to the GPU first; here they stay on the CPU.
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_: tensor)
    assert np.allclose(nearest_distances(*points, "kaolin"), nearest_distances(*points, "scipy"), atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "pytorch", "kaolin"])
def test_unknown_or_unsupported_backend_is_refused(backend, points):
    with pytest.raises(ValueError, match="backend"):
        metrics.align(*points, backend)
