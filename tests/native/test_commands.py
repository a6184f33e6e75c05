"""The commands on a checkpoint folder that the native runtime loads, from files to results."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.checkpoints.load import load_pipeline
from fast_sam3d.cli import main
from tests.beds import differing, tensors
from tests.minis import picture, rgba
from tests.native.checkpoint import change, read, write_checkpoint

VOXELS = 120
STEPS = ("pipeline.ss_steps=4", "pipeline.slat_steps=3")


def plane() -> np.ndarray:
    y, x = np.meshgrid(np.linspace(1, -1, 48), np.linspace(1, -1, 64), indexing="ij")
    return np.stack([x, y, 3 + 0.2 * x], axis=-1).astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the published form, whose objects have few voxels."""
    folder = write_checkpoint(tmp_path_factory.mktemp("weights"))
    pipeline, logits = load_pipeline(folder, device="cpu", runtime="native"), []
    pipeline.models["ss_decoder"].register_forward_hook(lambda module, args, found: logits.append(found.flatten()))
    pipeline.run(rgba(), seed=0, stage1_only=True, stage1_inference_steps=4, pointmap=torch.from_numpy(plane()))
    bias = read(folder / "ss_decoder.ckpt")["out_layer.2.bias"]
    change(folder / "ss_decoder.ckpt", **{"out_layer.2.bias": bias - logits[0].topk(VOXELS).values[-1]})
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with two masks and a pointmap."""
    folder = tmp_path_factory.mktemp("pictures") / "cup"
    folder.mkdir()
    image, mask = picture()
    Image.fromarray(image).save(folder / "image.png")
    for number, covered in enumerate((mask, np.roll(mask, 12, axis=1))):
        Image.fromarray(covered).save(folder / f"{number}.png")
    np.savez(folder / "pointmap.npz", pointmap=plane())
    return folder


def test_infer_gives_the_same_files_under_the_smallest_and_the_largest_memory_plan(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for memory in ("8GB", "all"):
        request = ["infer", "--tag", str(weights), "--image_path", str(pictures), "--runtime", "native", *STEPS]
        assert main([*request, "--device", "cpu", "--memory", memory, "--output_dir", str(tmp_path / memory)]) == 0
        assert f"memory plan {memory}" in capsys.readouterr().out
    small, large = (tmp_path / memory / "cup_0" for memory in ("8GB", "all"))
    for name in ("mesh.glb", "gaussians.ply", "pose.json"):
        assert (small / name).read_bytes() == (large / name).read_bytes(), name
    report = json.loads((small / "report.json").read_text())
    assert report["pipeline"]["tag"] == str(weights)
    assert report["pipeline"]["runtime"] == "native"


@pytest.mark.parametrize("preset", ["default", "fast_sam3d"])
def test_infer_accelerates(preset: str, weights: Path, pictures: Path, tmp_path: Path) -> None:
    request = ["infer", "--tag", str(weights), "--image_path", str(pictures), "--runtime", "native", "--device", "cpu"]
    assert main([*request, "--preset", preset, "--output_dir", str(tmp_path), "pipeline.ss_steps=16"]) == 0
    report = json.loads((tmp_path / "cup_0/report.json").read_text())
    assert all(report["network_calls"][stage]["saved"] > 0 for stage in ("ss", "slat"))


def test_scene_reconstructs_every_mask(weights: Path, pictures: Path, tmp_path: Path) -> None:
    request = ["scene", "--tag", str(weights), "--image_path", str(pictures), "--runtime", "native", "--device", "cpu"]
    options = ["--memory", "8GB", "--output_dir", str(tmp_path), "output.preview=false"]
    assert main([*request, *options, *STEPS]) == 0
    summary = json.loads((tmp_path / "cup/summary.json").read_text())
    assert [each["status"] for each in summary["objects"]] == ["complete"] * 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pipeline: pickle.loads(pickle.dumps(pipeline))])
def test_a_loaded_pipeline_can_be_copied_and_pickled(duplicate: Callable[[Any], Any], weights: Path) -> None:
    options = {"seed": 0, "pointmap": torch.from_numpy(plane()), "stage1_inference_steps": 2, "stage1_only": True}
    pipeline = load_pipeline(weights, device="cpu", runtime="native", memory="8GB")
    expected = tensors(pipeline.run(rgba(), **options))
    again = duplicate(pipeline)
    pipeline.residency.release()
    assert differing(tensors(again.run(rgba(), **options)), expected) == set()
