"""Pose refinement of the stock pipeline, whose published configuration refines none: its own frames and pose rule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fast_sam3d import RunSettings, run_object
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli import main, object_input
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.outputs import gaussians as gaussian_files
from fast_sam3d.render.renderer import nearest_faces
from tests.minis import picture
from tests.posed import CAMERA, SOLID, TRUE, disturbed, errors
from tests.stock.build import STOCK

FEW = RunSettings(0, 2, 2, ("mesh",))
GIVEN = disturbed()


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return STOCK.build()


def leaves(pose: Pose) -> dict[str, Tensor]:
    return {name: torch.from_numpy(getattr(pose, name)[None]).float() for name in ("rotation", "translation", "scale")}


def photographed(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Mask [H, W], and points [H, W, 3] in the depth model's frame (+x right, +y down), of the object in a pose.

    The object is placed by the stock code that composes scenes (utils/visualization/scene_visualizer.py).
    """
    from sam3d_objects.data.dataset.tdfy import transforms_3d

    leaf = leaves(pose)
    turn = transforms_3d.quaternion_to_matrix(leaf["rotation"])
    moved = transforms_3d.compose_transform(scale=leaf["scale"], rotation=turn, translation=leaf["translation"])
    _, depth = nearest_faces(moved.transform_points(torch.from_numpy(SOLID.points).float()), SOLID.faces, CAMERA)
    mask = np.isfinite(depth)
    depth = np.where(mask, depth, 6.0)
    v, u = np.mgrid[: CAMERA.size[0], : CAMERA.size[1]] + 0.5
    x, y = (u - CAMERA.principal[0]) / CAMERA.focal, (v - CAMERA.principal[1]) / CAMERA.focal
    return mask, np.stack([x * depth, y * depth, depth], -1).astype(np.float32)


@contextmanager
def known(pipeline: Any, points: np.ndarray) -> Iterator[None]:
    """Every run in this block decodes the known object, in a pose beside the true one."""
    from sam3d_objects.model.backbone.tdfy_dit.representations.mesh.cube2mesh import MeshExtractResult
    from sam3d_objects.pipeline import inference_pipeline_pointmap

    vertices = torch.from_numpy(SOLID.points).float()
    mesh = MeshExtractResult(vertices, torch.from_numpy(SOLID.faces), torch.rand(len(vertices), 6))
    gaussian = SimpleNamespace(get_xyz=vertices, get_opacity=torch.full((len(vertices), 1), 0.9),
                               get_scaling=torch.full((len(vertices), 3), 0.01))  # fmt: skip
    decoded = {"mesh": [mesh], "gaussian": [gaussian]}
    with ExitStack() as stack:
        for name, replacement in {
            "depth_model": lambda image: {"pointmaps": torch.from_numpy(points), "intrinsics": torch.eye(3)},
            "pose_decoder": lambda *args, **kwargs: leaves(GIVEN),
            "decode_slat": lambda slat, formats: {asked: decoded[asked] for asked in formats},
        }.items():
            stack.enter_context(mock.patch.object(pipeline, name, replacement))
        focal = mock.patch.object(inference_pipeline_pointmap, "infer_intrinsics_from_pointmap")  # needs moge
        stack.enter_context(focal).return_value = {"intrinsics": torch.eye(3)}
        stack.enter_context(STOCK.running())
        yield


@pytest.mark.parametrize("formats", [("mesh",), ("gaussian",)])
@pytest.mark.parametrize("given", [False, True])
def test_a_known_pose_is_recovered(pipeline: Any, formats: tuple[str, ...], given: bool) -> None:
    """With the depth model's pointmap, and with a given one, which is in the PyTorch3D frame."""
    mask, points = photographed(TRUE)
    image = np.full((*mask.shape, 3), 90, np.uint8)
    pointmap = points * np.float32([-1, -1, 1]) if given else None
    with known(pipeline, points):
        found = run_object(pipeline, image, mask, pointmap, settings=RunSettings(0, 2, 2, formats))
        kept = run_object(pipeline, image, mask, pointmap, settings=RunSettings(0, 2, 2, formats, refine_pose=False))
    assert found.result["layout_refinement"]["accepted"] and found.pose_refined
    assert (errors(Pose.of(found.result)) < 0.5 * errors(GIVEN)).all()
    assert all(torch.equal(kept.result[name], leaf) for name, leaf in leaves(GIVEN).items())
    assert "layout_refinement" not in kept.result and not kept.pose_refined


@pytest.mark.parametrize("formats", [("mesh",), ("gaussian",), ("mesh", "gaussian")])
def test_random_weights_raise_no_error(pipeline: Any, formats: tuple[str, ...]) -> None:
    with STOCK.running():
        found = run_object(pipeline, *picture(), settings=RunSettings(0, 2, 2, formats))
    facts = found.result["layout_refinement"]
    assert facts["by"] == "fast_sam3d" and facts["accepted"] == (not facts["reason"])
    assert all(name in found.result for name in formats)
    assert ("mesh" in found.result) == ("mesh" in formats)
    assert "mesh" not in formats or len(found.result["mesh"][0].faces)


def test_a_configured_method_is_called_with_what_it_documents_and_kept(pipeline: Any) -> None:
    """With the depth model's own intrinsics the stock code loses them, its method fails, and ours takes its place."""
    mask, points = photographed(TRUE)
    image, calls = np.full((*mask.shape, 3), 90, np.uint8), []

    def method(mesh: Any, rotation: Tensor, translation: Tensor, scale: Tensor, *more: Any, **sizes: Any) -> Any:
        calls.append(more)
        return rotation, translation + 0.5, scale, 0.6, False, False

    with known(pipeline, points), mock.patch.object(pipeline, "layout_post_optimization_method", method):
        lost = run_object(pipeline, image, mask, settings=FEW)
        found = run_object(pipeline, image, mask, points * np.float32([-1, -1, 1]), settings=FEW)
        assert pipeline.layout_post_optimization_method is method
    assert lost.result["layout_refinement"]["by"].startswith("fast_sam3d, because")
    facts = found.result["layout_refinement"]
    assert len(calls) == 1 and facts["by"] == "the pipeline" and facts["mask_iou_after"] == 0.6
    assert facts["change"]["translation"] == pytest.approx(0.75**0.5, rel=1e-3)


def test_infer_writes_a_mesh_alone_and_retries_out_of_memory(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without acceleration; the mesh does not fit in the second run."""
    mask, points = photographed(TRUE)
    (tmp_path / "cup").mkdir()
    Image.fromarray(np.full((*mask.shape, 3), 90, np.uint8)).save(tmp_path / "cup" / "image.png")
    Image.fromarray(mask).save(tmp_path / "cup" / "0.png")
    weights = Checkpoint("sam3d", tmp_path, "sam3d", "the test says so")
    monkeypatch.setattr(object_input, "find_checkpoint", lambda *asked: weights)
    monkeypatch.setattr(loading, "load_checkpoint", lambda *args: pipeline)
    given = ["infer", "--image_path", str(tmp_path / "cup"), "pipeline.ss_steps=2", "pipeline.slat_steps=2"]

    def infer(name: str, *more: str) -> dict[str, Any]:
        assert main([*given, *more, f"output.dir={tmp_path / name}"]) == 0
        found: dict[str, Any] = json.loads((tmp_path / name / "cup_0" / "report.json").read_text())
        return found

    with known(pipeline, points):
        alone = infer("alone", "pipeline.formats=[mesh]")
        assert "pose refined by fast_sam3d" in capsys.readouterr().out
        decode = pipeline.decode_slat

        def full(slat: Any, formats: list[str]) -> Any:
            if "mesh" in formats:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            return decode(slat, formats)

        monkeypatch.setattr(pipeline, "decode_slat", full)
        monkeypatch.setattr(gaussian_files, "save_gaussians_ply", lambda path, gaussians: path.touch())
        less = infer("less", "pipeline.formats=[mesh,gaussian]", "output.preview=false")
    assert alone["formats"] == ["mesh"] and (tmp_path / "alone" / "cup_0" / "mesh.glb").stat().st_size > 1000
    assert alone["result"]["layout_refinement"]["accepted"] and alone["pose_refined"] and not alone["out_of_memory"]
    assert less["formats"] == ["gaussian"] and len(less["out_of_memory"]) == 2
    assert less["result"]["layout_refinement"]["accepted"]
