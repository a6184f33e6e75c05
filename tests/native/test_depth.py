"""The user's MoGe weights: found, read, refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from fast_sam3d import accelerated
from fast_sam3d.adapters.sam3d import Sam3d
from fast_sam3d.checkpoints.load import load_pipeline
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native import moge
from fast_sam3d.native.depth import DepthModel, depth_part
from fast_sam3d.native.moge import MoGe, MoGeConfig
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.native.preprocess import camera_points
from fast_sam3d.native.vit import ViTConfig
from tests.native.checkpoint import write_checkpoint
from tests.native.small_moge import TINY, picture, see_a_scene
from tests.native.tiny import SETTINGS, random_parts

HUB = "Ruicheng/moge-vitl"
CONFIG = {
    "encoder": "dinov2_tiny", "intermediate_layers": 2, "dim_proj": 16, "dim_upsample": [32, 32],
    "dim_times_res_block_hidden": 2, "num_res_blocks": 1, "remap_output": "exp", "num_tokens_range": [20, 40],
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of the encoders by name has 22 million parameters."""
    named = ViTConfig.named
    monkeypatch.setattr(moge.ViTConfig, "named", lambda name: TINY.encoder if name == "dinov2_tiny" else named(name))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: Any, **options: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **options: None)


def save(path: Path, **changes: Any) -> MoGe:
    network = MoGe(TINY).eval().requires_grad_(False)
    see_a_scene(network, 0.5)
    torch.save({"model_config": CONFIG, "model": network.state_dict(), **changes}, path)
    return network


def assert_opens(name: str, folder: Path, saved: MoGe) -> None:
    part = depth_part(name, folder)
    assert part.name == "depth_model"
    assert {value.device.type for value in part.module.state_dict().values()} == {"meta"}
    part.load(torch.device("cpu"), None)
    image = picture(30, 40)
    found, expected = DepthModel(part.module)(image), saved.infer(image)
    assert found.keys() == {*expected, "pointmaps"} and found["pointmaps"] is found["points"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_files_by_path_and_beside_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(tmp_path / "model.pt")
    assert_opens(str(tmp_path / "model.pt"), Path("elsewhere"), saved)
    assert_opens("model.pt", tmp_path, saved)
    assert_opens(str(tmp_path), Path("elsewhere"), saved)
    assert_opens(".", tmp_path, saved)


def test_files_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save(tmp_path / "cached.pt")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(tmp_path / "cached.pt"))
    assert_opens(HUB, tmp_path, saved)


def test_the_hub_is_asked_when_the_weights_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = depth_part(HUB, tmp_path)
    assert part.module.config == MoGeConfig()
    with pytest.raises(CheckpointError, match=r"is not in the hub's cache and cannot be downloaded \(no route\)"):
        part.load(torch.device("cpu"), None)
    asked = []
    save(tmp_path / "other.pt")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *args: asked.append(args) or str(tmp_path / "other.pt")
    )
    with pytest.raises(CheckpointError, match="has other settings"):
        part.load(torch.device("cpu"), None)
    assert asked == [(HUB, "model.pt")]


@pytest.mark.parametrize(
    "name", ["gone.pt", "/data/somebody/moge-vitl/model.pt", "moge/model.pt", "a b/c", "one/two/three"]
)
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"the depth model {name} is missing: give the model.pt of {HUB}"):
        depth_part(name, tmp_path)


def test_files_of_other_models(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="is no file of MoGe, which has `model_config` and `model`"):
        depth_part("model.pt", tmp_path)
    save(path, model_config={"encoder": {"backbone": "dinov2_vitl14"}, "neck": {}})
    with pytest.raises(CheckpointError, match=r"model.pt is MoGe of version 2 or later"):
        depth_part("model.pt", tmp_path)
    save(path, model_config={**CONFIG, "remap_output": "cubic"})
    with pytest.raises(CheckpointError, match=r"model.pt has model_config.remap_output = 'cubic'"):
        depth_part("model.pt", tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="corrupt or incomplete"):
        depth_part("model.pt", tmp_path)


def test_tensors_that_do_not_fit_are_named_with_their_file(tmp_path: Path) -> None:
    network = save(tmp_path / "model.pt")
    tensors = network.state_dict()
    tensors.pop("head.output_block.1.2.bias")
    save(tmp_path / "model.pt", model=tensors)
    with pytest.raises(CheckpointError, match=r"model.pt lack head.output_block.1.2.bias: give the model.pt of"):
        depth_part("model.pt", tmp_path)


def test_half_of_the_weights(tmp_path: Path) -> None:
    saved = save(tmp_path / "model.pt")
    part, image = depth_part("model.pt", tmp_path), picture(30, 40)
    part.load(torch.device("cpu"), torch.float16)
    kinds = {name: value.dtype for name, value in part.module.named_parameters()}
    assert kinds["head.upsample_blocks.0.0.0.weight"] is kinds["backbone.blocks.0.attn.qkv.weight"] is torch.float16
    assert kinds["head.upsample_blocks.0.1.layers.0.weight"] is kinds["backbone.norm.weight"] is torch.float32
    expected = saved.infer(image, half=True)
    assert all(torch.equal(value, expected[name]) for name, value in part.module.infer(image).items())


def test_a_run_with_a_depth_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exact savings the depth of a picture is computed once for its objects."""
    save(tmp_path / "model.pt")
    part = depth_part("model.pt", tmp_path)
    part.load(torch.device("cpu"), None)
    pipeline = NativePipeline(SETTINGS, random_parts(), depth_model=DepthModel(part.module))
    rgba = (picture(30, 40).permute(1, 2, 0) * 255).byte().numpy()
    rgba = np.concatenate([rgba, np.zeros_like(rgba[..., :1])], -1)
    seen = part.module.infer(torch.from_numpy(rgba[..., :3] / 255).float().permute(2, 0, 1))
    calls = []
    monkeypatch.setattr(MoGe, "forward", lambda *args, forward=MoGe.forward: calls.append(1) or forward(*args))
    with accelerated(pipeline, preset="off", overrides=["exact=all"]):
        for top in (4, 12):  # two objects of a picture
            rgba[..., 3] = 0
            rgba[top : top + 12, 10:25, 3] = 255
            found = pipeline.run(rgba, seed=0, stage1_only=True)
            expected = camera_points(seen["points"])
            torch.testing.assert_close(found["pointmap"], expected, equal_nan=True)
    assert len(calls) == 1


def test_a_checkpoint_with_the_users_depth_model(tmp_path: Path) -> None:
    saved = save(tmp_path / "model.pt")
    folder = tmp_path / "weights"
    folder.mkdir()
    pipeline = load_pipeline(write_checkpoint(folder), "cpu", depth_model=tmp_path, runtime="native")
    rgba = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    found = pipeline.compute_pointmap(rgba)
    expected = saved.infer(torch.from_numpy(rgba[..., :3] / 255).float().permute(2, 0, 1))
    points = camera_points(expected["points"]).permute(2, 0, 1)
    torch.testing.assert_close(found["pointmap"], points, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found["intrinsics"], expected["intrinsics"])


def test_the_adapter_finds_the_network() -> None:
    network = MoGe(TINY)
    pipeline = SimpleNamespace(models={}, depth_model=DepthModel(network))
    assert Sam3d(pipeline).depth_network() is network
