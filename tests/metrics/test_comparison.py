"""Comparison of whole objects."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from fast_sam3d import metrics
from fast_sam3d.metrics import NO_MESH, Protocol, Reconstruction, compare, quality_and_fidelity
from fast_sam3d.metrics.appearance import PSNR_MAX
from tests.minis import random_mini, rgba

FAST = Protocol(points=300, resolution=16, parts=("surface", "volume", "voxels", "pose", "layout", "latent"))
BOX = Reconstruction(
    mesh=trimesh.creation.box((1.0, 0.6, 0.4)),
    voxels=np.array([[0, 0, 0], [0, 0, 1]]),
    rotation=np.eye(3),
    translation=np.array([0.0, 0.0, 2.0]),
    scale=np.full(3, 0.5),
    latent=np.ones(4),
)


def result(rotation=(1.0, 0, 0, 0), mesh=BOX.mesh, success=True, **more):
    """A result of a pipeline's run for the same object."""
    return {
        "rotation": torch.tensor([rotation]),
        "translation": torch.tensor([[0.0, 0.0, 2.0]]),
        "scale": torch.full((1, 3), 0.5),
        "coords": torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]),
        "shape": torch.ones(4),
        "mesh": [SimpleNamespace(vertices=mesh.vertices, faces=mesh.faces, success=success)],
        **more,
    }


def test_equal_objects_get_perfect_scores():
    scores = compare(BOX, BOX, FAST)
    for name, value in scores.items():
        if name in metrics.PERFECT:
            assert value == pytest.approx(metrics.PERFECT[name], abs=1e-5), name
    assert scores["f1@0.05"] > 0.6 and scores["chamfer"] < 0.1 and scores["add_s"] < 0.06, "only 300 points"


def test_each_score_equals_its_own_function():
    turn = Rotation.from_euler("z", 30, degrees=True)
    w = turn.as_quat(canonical=True, scalar_first=True)
    found = replace(
        Reconstruction.of(result(tuple(float(x) for x in w))), mesh=trimesh.creation.box((0.8, 0.6, 0.4)),
        translation=np.array([0.1, 0, 2.0]), scale=np.full(3, 0.6), voxels=np.array([[0, 0, 1], [5, 5, 5], [6, 6, 6]]),
    )  # fmt: skip
    scores = compare(found, BOX, FAST)
    diameter = 0.5 * (1.0 + 0.36 + 0.16) ** 0.5
    assert scores["rotation_deg"] == pytest.approx(30, abs=1e-4)
    assert scores["translation_error"] == pytest.approx(0.1 / diameter)
    assert scores["scale_error"] == pytest.approx(0.2)
    assert scores["voxel_iou"] == 0.25
    assert scores | metrics.compare_meshes(found.mesh, BOX.mesh, 300) == scores
    assert scores["volume_iou"] == metrics.volume_iou(found.mesh, BOX.mesh, 16)
    posed = found.mesh.vertices, found.matrix, BOX.mesh.vertices, BOX.matrix
    assert scores["box_iou"] == metrics.layout_box_iou(*posed)
    assert scores["oriented_box_iou"] == pytest.approx(metrics.oriented_box_iou(*posed))
    assert scores["oriented_box_iou"] != pytest.approx(scores["box_iou"], abs=0.02)


def test_the_pose_is_read_with_the_convention_of_results():
    from fast_sam3d.geometry.poses import pose_matrix

    given = result((0.5, 0.1, -0.3, 0.8))
    assert np.allclose(Reconstruction.of(given).matrix, pose_matrix(given))


def test_the_cells_of_the_ground_truth_are_cached(monkeypatch):
    found = replace(BOX, mesh=trimesh.creation.box((0.8, 0.6, 0.4)))
    usual = Protocol(parts=("volume",))
    first = compare(found, truth := replace(BOX), usual)
    assert first["volume_iou"] == metrics.volume_iou(found.mesh, BOX.mesh)
    monkeypatch.setattr("fast_sam3d.metrics.comparison.cells", None)
    assert compare(found, truth, usual) == first


def test_a_failed_run_gets_the_worst_scores():
    scores = compare(Reconstruction.of(None), BOX, FAST)
    assert scores["f1@0.05"] == scores["volume_iou"] == scores["voxel_iou"] == scores["box_iou"] == 0.0
    assert scores["chamfer"] == metrics.WORST_CHAMFER and scores["rotation_deg"] == 180.0
    assert not {"translation_error", "psnr", "latent_error"} & scores.keys(), "these have no worst score"
    assert compare(BOX, Reconstruction.of(None), FAST) == {}


@pytest.mark.parametrize("empty", [{"mesh": trimesh.Trimesh()}, {"success": False}])
def test_an_empty_mesh_fails_only_the_measures_of_meshes(empty):
    found = Reconstruction.of(result(**empty))
    scores = compare(found, BOX, FAST)
    assert found.mesh is NO_MESH
    assert scores["f1@0.05"] == scores["volume_iou"] == scores["box_iou"] == 0.0
    assert scores["rotation_deg"] == pytest.approx(0, abs=1e-5) and scores["voxel_iou"] == 1.0


def test_fields_missing_on_one_side_are_not_compared():
    bare = {key: value for key, value in result().items() if key not in ("mesh", "shape")}
    scores = compare(Reconstruction.of(bare), BOX, FAST)
    assert scores.keys() == {"voxel_iou", "rotation_deg", "scale_error", "translation_error"}
    assert compare(BOX, Reconstruction.of(bare), FAST).keys() == {"voxel_iou", "rotation_deg", "scale_error"}


def test_scores_are_named_after_their_reference():
    protocol = Protocol(parts=("pose",))
    rotations = [Rotation.from_euler("y", angle, degrees=True).as_matrix().T for angle in (0, 3, 10)]
    truth, baseline, found = (replace(BOX, rotation=rotation) for rotation in rotations)
    scores = quality_and_fidelity(found, truth, baseline, protocol)
    degrees = {name: value for name, value in scores.items() if name.endswith("rotation_deg")}
    assert degrees == {"truth_rotation_deg": pytest.approx(10), "plain_rotation_deg": pytest.approx(7)}
    assert quality_and_fidelity(found, baseline=baseline, protocol=protocol).keys() == {
        name for name in scores if name.startswith("plain_")
    }


@pytest.mark.parametrize(
    ("setting", "says"),
    [({"parts": ("mesh",)}, "unknown part 'mesh'"), ({"points": 0}, "points"), ({"taus": (0.0,)}, "tau"),
     ({"frame": "box"}, "unknown frame 'box'")],
)  # fmt: skip
def test_invalid_protocols_are_rejected(setting, says):
    with pytest.raises(ValueError, match=says):
        Protocol(**setting)


def test_a_pipeline_result_has_every_measure():
    pipeline = random_mini()
    first, second = (Reconstruction.of(pipeline.run(rgba(), None, seed=seed)) for seed in (1, 2))
    scores = compare(first, second, Protocol(points=300, resolution=16))
    for name in ("chamfer", "f1@0.01", "volume_iou", "voxel_iou", "box_iou", "oriented_box_iou", "add_s",
                 "rotation_deg", "translation_error", "scale_error", "psnr", "ssim", "latent_error"):  # fmt: skip
        assert np.isfinite(scores[name]), name
    assert compare(first.on_host(), second.on_host(), Protocol(points=300, resolution=16)) == scores
    assert compare(first, first, Protocol(parts=("appearance", "latent"))) == {
        "psnr": PSNR_MAX, "ssim": pytest.approx(1.0), "latent_error": 0.0,
    }  # fmt: skip
