"""Weights files: exact to half precision, with clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.weights import HASHES_NAME, load_hashes, load_weights, save_hashes, save_weights


def test_round_trip_rounds_to_half_and_computes_in_float32(tmp_path: Path) -> None:
    saved, loaded = nn.Linear(5, 3), nn.Linear(5, 3)
    save_weights(saved, tmp_path / "a.safetensors")
    load_weights(loaded, tmp_path / "a.safetensors")
    assert loaded.weight.dtype == torch.float32
    assert torch.equal(loaded.weight, saved.weight.half().float())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    with pytest.raises(CheckpointError, match=r"part\.safetensors are missing"):
        load_weights(nn.Linear(5, 3), path)
    save_weights(nn.Linear(5, 3), path)
    with pytest.raises(CheckpointError, match=r"weight with the shape \[3, 5\], and the network takes \[4, 5\]"):
        load_weights(nn.Linear(5, 4), path)
    with pytest.raises(CheckpointError, match="have bias, which the network lacks"):
        load_weights(nn.Linear(5, 3, bias=False), path)
    content = path.read_bytes()
    for broken in (content[:-4], content[:20], b"", b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"part\.safetensors (are corrupt|is empty)"):
            load_weights(nn.Linear(5, 3), path)
    path.write_bytes(content[:-2] + b"\x00\x7e")  # the last half becomes not-a-number
    with pytest.raises(CheckpointError, match="not finite"):
        load_weights(nn.Linear(5, 3), path)


def test_refuses_weights_that_overflow_float16(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(1e6)
    with pytest.raises(ValueError, match="float16"):
        save_weights(module, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_unsupported_dtype_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_weights(nn.Linear(5, 3), path)
    content = path.read_bytes()
    for kind, word in ((b"I16", "int16"), (b"X16", "corrupt"), (b"\xff16", "corrupt")):
        path.write_bytes(content.replace(b"F16", kind))
        with pytest.raises(CheckpointError, match=word):
            load_weights(nn.Linear(5, 3), path)


def test_checksum_detects_a_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    digest = save_weights(nn.Linear(5, 3), path)
    load_weights(nn.Linear(5, 3), path, digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_weights(nn.Linear(5, 3), path)  # not detectable otherwise
    with pytest.raises(CheckpointError, match=r"part\.safetensors are damaged \(sha256"):
        load_weights(nn.Linear(5, 3), path, digest)


def test_checksums_are_read_back_and_may_be_absent(tmp_path: Path) -> None:
    assert load_hashes(tmp_path) == {}
    save_hashes(tmp_path, {"a.safetensors": "0" * 64})
    assert load_hashes(tmp_path) == {"a.safetensors": "0" * 64}


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"a": 1}', '{"a": "00"}', "[" * 5000])
def test_unreadable_checksums_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / HASHES_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=HASHES_NAME):
        load_hashes(tmp_path)


def test_interrupted_save_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_weights(nn.Linear(5, 3), tmp_path / "part.safetensors")
    assert not list(tmp_path.iterdir())
