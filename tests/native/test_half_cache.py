"""The copy of a checkpoint's weights in half precision."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fast_sam3d.errors import CheckpointError, OutputError
from fast_sam3d.native import half_cache
from fast_sam3d.native.half_cache import cache_path, cached_parts, is_current, write_cache
from fast_sam3d.native.networks import file_parts
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.weights import WeightsPart
from tests.native.checkpoint import change, read, write_checkpoint

CPU, HALF = torch.device("cpu"), torch.float16


def settings(folder: Path) -> NativeSettings:
    return NativeSettings.read(folder)


def loaded(parts: dict[str, WeightsPart], half: torch.dtype | None) -> dict[str, Any]:
    for part in parts.values():
        part.load(CPU, half)
    return {f"{name}/{k}": v for name, part in parts.items() for k, v in part.module.state_dict().items()}


@pytest.mark.parametrize("half", [HALF, torch.bfloat16])
def test_networks_are_equal_to_those_of_the_files(folder: Path, half: torch.dtype) -> None:
    expected = loaded(file_parts(folder, settings(folder), ""), half)
    parts = cached_parts(folder, settings(folder), half, "")
    found = loaded(parts, half)
    assert found.keys() == expected.keys()
    assert all(found[key].dtype == expected[key].dtype and torch.equal(found[key], expected[key]) for key in found)
    # Float32 is not that of the copy.
    for part in parts.values():
        part.release()
    exact, expected = loaded(parts, None), loaded(file_parts(folder, settings(folder), ""), None)
    assert all(torch.equal(exact[key], expected[key]) for key in exact)


def test_equal_image_encoders_are_stored_once(folder: Path) -> None:
    parts = cached_parts(folder, settings(folder), HALF, "")
    stored = load_file(cache_path(folder, HALF))
    names = [name for name in stored if name.endswith("cls_token") and "backbone" in name]
    assert names == ["ss_condition_embedder/module_list.0.backbone.cls_token"]
    encoders = [e for name in parts if "embedder" in name for e in parts[name].module.image_encoders()]
    assert len({id(encoder.backbone) for encoder in encoders}) == 1


def test_different_image_encoders_are_stored_apart(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, equal_encoders=False)
    expected = loaded(file_parts(folder, settings(folder), ""), HALF)
    found = loaded(cached_parts(folder, settings(folder), HALF, ""), HALF)
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_copy_is_read_and_not_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_parts(folder, settings(folder), HALF, "")
    monkeypatch.setattr(half_cache, "write_cache", None)
    cached_parts(folder, settings(folder), HALF, "")


def test_the_copy_is_written_again_when_a_file_changes(folder: Path) -> None:
    path = write_cache(folder, settings(folder), HALF, "")
    assert is_current(folder, settings(folder), HALF) and not is_current(folder, settings(folder), torch.bfloat16)
    key = "out_layer.bias"
    change(folder / "slat_decoder_mesh.ckpt", **{key: read(folder / "slat_decoder_mesh.ckpt")[key] + 1})
    assert not is_current(folder, settings(folder), HALF)
    part = cached_parts(folder, settings(folder), HALF, "")["slat_decoder_mesh"]
    part.load(CPU, HALF)
    assert torch.equal(part.module.out_layer.bias, read(folder / "slat_decoder_mesh.ckpt")[key])
    later = (folder / "ss_decoder.ckpt").stat().st_mtime + 5
    os.utime(folder / "ss_decoder.ckpt", (later, later))
    assert not is_current(folder, settings(folder), HALF) and path.exists()


def test_values_that_half_precision_cannot_hold_leave_no_copy(folder: Path) -> None:
    change(folder / "slat_decoder_gs.ckpt", **{"blocks.0.mlp.mlp.0.bias": torch.full((64,), 1e6)})
    with pytest.raises(CheckpointError, match=r"slat_decoder_gs\.ckpt have values in blocks\.0\.mlp\.mlp\.0\.bias"):
        cached_parts(folder, settings(folder), HALF, "")
    assert not [path for path in folder.iterdir() if "cache" in path.name]


def test_a_damaged_copy_is_named(folder: Path) -> None:
    path = write_cache(folder, settings(folder), HALF, "")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{path.name} are corrupt or incomplete: remove"):
        cached_parts(folder, settings(folder), HALF, "")


def test_a_full_disk_is_named_with_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(half_cache.shutil, "disk_usage", lambda place: usage(10, 10, 0))
    with pytest.raises(OutputError, match=r"takes 0\.0 GiB, and the disk .* has 0\.0 GiB left"):
        write_cache(folder, settings(folder), HALF, "")


def test_a_folder_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(half_cache, "atomic_write", refuse)
    with pytest.raises(OutputError, match="cannot be written"):
        write_cache(folder, settings(folder), HALF, "")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_no_copy_is_written_again(content: bytes, folder: Path) -> None:
    path = write_cache(folder, settings(folder), HALF, "")
    whole = path.read_bytes()
    path.write_bytes(content)
    cached_parts(folder, settings(folder), HALF, "")
    assert path.read_bytes() == whole


def test_the_copy_is_written_again_when_a_network_is_to_be_in_float32(folder: Path) -> None:
    write_cache(folder, settings(folder), HALF, "")
    yaml = folder / "slat_decoder_gs.yaml"
    assert "use_fp16: true" in yaml.read_text()
    yaml.write_text(yaml.read_text().replace("use_fp16: true", "use_fp16: false"))
    expected = loaded(file_parts(folder, settings(folder), ""), HALF)
    found = loaded(cached_parts(folder, settings(folder), HALF, ""), HALF)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_a_killed_process_left_is_removed_when_it_is_old(folder: Path) -> None:
    old, new = (folder / f".{cache_path(folder, HALF).name}.{name}.tmp" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"1")
    os.utime(old, (1, 1))
    write_cache(folder, settings(folder), HALF, "")
    assert (old.exists(), new.exists()) == (False, True)
