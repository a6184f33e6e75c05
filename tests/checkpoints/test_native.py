"""Loading the user's weights with the native runtime."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints import runtime as runtimes
from fast_sam3d.checkpoints.load import find_checkpoint, load_pipeline
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.native import plans
from fast_sam3d.native.pipeline import NativePipeline
from tests.native.checkpoint import change, write_checkpoint

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def hf(elsewhere: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete checkpoints/hf in the working folder, on a computer with much memory."""
    root = elsewhere / "checkpoints"
    monkeypatch.setattr(loading, "checkpoint_roots", lambda: [root])
    monkeypatch.setattr(plans, "free_bytes", lambda device: 64 << 30)
    return Path(shutil.copytree(shared, root / "hf"))


def message(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(FastSam3dError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, name: str, **values: Any) -> None:
    content = OmegaConf.load(folder / f"{name}.yaml")
    content.update(values)
    OmegaConf.save(content, folder / f"{name}.yaml")


def test_the_default_takes_own_weights_on_any_device(hf: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fast_sam3d")
    pipeline = load_pipeline(device="cpu")
    assert isinstance(pipeline, NativePipeline) and pipeline.device == CPU
    assert "pipeline: hf" in caplog.text and "native runtime" in caplog.text
    assert "it needs an NVIDIA GPU, not device cpu" in caplog.text


def test_nothing_is_loaded_before_it_is_needed(hf: Path) -> None:
    pipeline = load_pipeline("hf", device="cpu")
    parameters = [p for network in pipeline.models.values() for p in network.parameters()]
    assert all(p.is_meta for p in parameters)
    with pipeline.using("ss_decoder"):
        assert not any(p.is_meta for p in pipeline.models["ss_decoder"].parameters())


@pytest.mark.parametrize(("dtype", "half"), [(None, torch.float32), ("float16", torch.float16)])
def test_precision_is_float32_on_a_cpu_unless_asked_for(hf: Path, dtype: str | None, half: torch.dtype) -> None:
    pipeline = load_pipeline("hf", device="cpu", dtype=dtype)
    assert pipeline.dtype is half
    with pipeline.using("slat_decoder_mesh"):
        assert pipeline.models["slat_decoder_mesh"].torso_dtype is half


def test_the_copy_in_half_precision_is_written_if_asked_for(hf: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_pipeline("hf", device="cpu", dtype="float16")
    load_pipeline("hf", device="cpu", half_cache=True)
    assert "no effect in float32" in caplog.text
    assert not list(hf.glob("*.cache"))
    load_pipeline("hf", device="cpu", dtype="float16", half_cache=True)
    assert [path.name for path in hf.glob("*.cache")] == ["float16.cache"]


def test_a_memory_plan_is_followed(hf: Path) -> None:
    assert load_pipeline("hf", device="cpu", memory="12GB").residency.plan.name == "12GB"


def test_a_device_without_enough_memory_is_refused_before_loading(hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "free_bytes", lambda device: 1 << 30)
    monkeypatch.setattr("fast_sam3d.native.networks.file_parts", None)
    text = message(load_pipeline, "hf", device="cpu")
    assert "cpu has 1.0 GiB of free memory, and the smallest memory plan needs about" in text
    found = find_checkpoint(device="cpu")
    assert found.kind == "mini" and "1.0 GiB" in found.reason


def test_settings_that_are_not_implemented_are_named(hf: Path) -> None:
    edit(hf, "slat_decoder_mesh", attn_mode="full")
    text = message(load_pipeline, "hf", device="cpu")
    assert "slat_decoder_mesh.yaml has attn_mode = 'full', and the native runtime implements 'swin'" in text
    assert text.rpartition(": ")[0] in find_checkpoint(device="cpu").reason


def test_missing_files_and_tensors_are_named(hf: Path) -> None:
    change(hf / "slat_decoder_mesh.ckpt", **{"out_layer.bias": None})
    assert "slat_decoder_mesh.ckpt lack out_layer.bias" in message(load_pipeline, "hf", device="cpu")
    (hf / "ss_decoder.ckpt").unlink()
    text = message(load_pipeline, "hf", device="cpu")
    assert "lacks ss_decoder.ckpt" in text and "fast-sam3d download" in text
    assert find_checkpoint(device="cpu").kind == "mini"


def test_a_missing_depth_model_is_named(hf: Path) -> None:
    assert "no depth model" in message(load_pipeline, "hf", device="cpu", depth_model="nowhere/model.pt")
    node = OmegaConf.load(hf / "pipeline.yaml")
    node.depth_model.model.pretrained_model_name_or_path = "/nowhere/model.pt"
    OmegaConf.save(node, hf / "pipeline.yaml")
    assert "/nowhere/model.pt" in message(load_pipeline, "hf", device="cpu")


def test_a_pipeline_without_a_depth_model_needs_a_pointmap(hf: Path) -> None:
    edit(hf, "pipeline", depth_model=None)
    assert load_pipeline("hf", device="cpu").depth_model is None


def test_the_embedded_model_has_neither_runtime_nor_copy(hf: Path) -> None:
    assert "runtime=native does not hold" in message(load_pipeline, "mini", device="cpu", runtime="native")
    assert "no copy of its weights" in message(load_pipeline, "mini", device="cpu", half_cache=True)
    (hf / "ss_decoder.ckpt").unlink()
    text = message(load_pipeline, device="cpu", runtime="native")
    assert "does not hold for the embedded model, which is used because" in text and "ss_decoder.ckpt" in text


def test_unknown_runtimes_are_named(hf: Path) -> None:
    assert "there is no runtime 'nativ': did you mean 'native'" in message(load_pipeline, "hf", runtime="nativ")


def test_stock_is_chosen_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "importable", lambda module: module != "kaolin")
    name, why = runtimes.choose_runtime("auto", GPU)
    assert name == "native" and "kaolin is not installed" in why
    monkeypatch.setattr(runtimes, "importable", lambda module: True)
    monkeypatch.setattr(runtimes, "holds", lambda part: False)
    assert runtimes.choose_runtime("auto", GPU)[0] == "stock"
    assert runtimes.choose_runtime("auto", CPU)[0] == "native"
    assert runtimes.choose_runtime("auto", torch.device("mps"))[0] == "native"
    assert runtimes.choose_runtime("native", GPU) == ("native", "it was asked for")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "AMD" in runtimes.choose_runtime("auto", GPU)[1]


def test_the_forks_package_is_not_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "importable", lambda module: True)
    monkeypatch.setattr(runtimes, "holds", lambda part: True)
    assert "fork" in str(runtimes.stock_problem(GPU))
