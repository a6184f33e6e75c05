"""A configuration is held against the headers of the weights before a network is built."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model import networks, unpickle
from fast_sam3d.model.outlines import Outlines
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.weight_files import map_tensors
from tests.minis import CONFIG, random_mini


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    random_mini().save_pretrained(folder)
    return folder


def test_outlines_have_the_names_and_shapes_of_networks_and_draw_nothing() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Outlines():
        outlined = networks.weight_parts(*networks.build_networks(CONFIG))
    assert torch.equal(torch.get_rng_state(), before)
    real = networks.weight_parts(*networks.build_networks(CONFIG))
    assert outlined.keys() == real.keys()
    for name, module in real.items():
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        assert {key: value.shape for key, value in outlined[name].state_dict().items()} == shapes
        assert all(value.is_meta for value in outlined[name].state_dict().values())


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("ss_decoder", "model_channels", 4096),
        ("ss_decoder", "num_res_blocks", 32),
        ("slat_flow", "io_channels", 4096),
        ("slat_flow", "num_blocks", 128),
        ("ss_flow", "mlp_ratio", 64.0),
        ("slat_decoder_mesh", "upsample_channels", [4096, 4096]),
        ("slat_decoder_gs", "num_gaussians", 32),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_built(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, key: str, value: Any
) -> None:
    for path in saved.iterdir():
        os.link(path, tmp_path / path.name)
    content = yaml.safe_load((saved / "pipeline.yaml").read_text())
    content[part][key] = value
    (tmp_path / "pipeline.yaml").unlink()
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(Pipeline, "__init__", lambda *_: pytest.fail("built"))
    with pytest.raises(CheckpointError, match=r"the weights .*safetensors (lack|have)"):
        Pipeline.from_pretrained(tmp_path)


def test_models_with_too_many_weights_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "MOST_WEIGHTS", 1000)
    with pytest.raises(CheckpointError, match="weights, more than 1,000"):
        Pipeline.from_pretrained(saved)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_weights_that_are_no_regular_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(CheckpointError, match=r"x\.safetensors (are a folder or a special file|cannot be read)"):
        map_tensors(path, "restore it")


def test_long_headers_and_pickles_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 40 << 20) + b'{"a":')
        file.truncate(41 << 20)
    with pytest.raises(CheckpointError, match="corrupt"):
        map_tensors(path, "restore it")
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02](" + b"N" * unpickle.LONGEST + b"e.")
    with pytest.raises(CheckpointError, match="have more than 2 MiB beside their tensors"):
        map_tensors(path, "restore it")
    old = tmp_path / "x.pt"
    torch.save({"a": torch.ones(1), "b": "b" * unpickle.LONGEST}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="have more than 2 MiB beside their tensors"):
        map_tensors(old, "restore it")


def test_old_files_that_cannot_be_mapped_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert map_tensors(path, "restore it")["a"] == 1
    with path.open("r+b") as file:
        file.truncate(20 << 30)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="format of before 1.6, and larger than 512 MiB"):
        map_tensors(path, "restore it")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(16).to(torch.float8_e4m3fn), "as float8_e4m3fn, and only floating point weights of 16 bits"),
        (torch.ones(16).to(torch.complex64), "as complex64, and only floating point weights"),
        (torch.full((16,), torch.nan), "have values in blocks.0.norm1.bias that are not finite in float32"),
        (torch.full((16,), 1e308, dtype=torch.float64), "have values in blocks.0.norm1.bias that are not finite"),
    ],
    ids=["float8", "complex", "nan", "1e308"],
)
def test_odd_weights_are_refused_with_file_and_name(
    saved: Path, tmp_path: Path, value: torch.Tensor, words: str
) -> None:
    from safetensors.torch import load_file, save_file

    for path in saved.iterdir():
        if path.name not in ("ss_decoder.safetensors", "sha256.json"):
            os.link(path, tmp_path / path.name)
    tensors = load_file(saved / "ss_decoder.safetensors")
    save_file(tensors | {"blocks.0.norm1.bias": value}, tmp_path / "ss_decoder.safetensors")
    with pytest.raises(CheckpointError, match=rf"ss_decoder\.safetensors .*{words}"):
        Pipeline.from_pretrained(tmp_path)
