"""Weights files are mapped, not executed."""

from __future__ import annotations

import argparse
import builtins
import functools
import os
import pathlib
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.unpickle import Inert
from fast_sam3d.model.weight_files import fill, map_tensors

WEIGHTS = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=nn.Parameter(torch.ones(4).half()), c=torch.zeros(2, 2).T)


class Runs:
    """Unpickled by calling a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_files_are_read_without_their_classes(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.ckpt"
    hyper = {
        "options": argparse.Namespace(rate=1.0),
        "path": pathlib.PurePosixPath("/a"),
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        nn.Linear: {"class as a key", 3},
        "shape": torch.Size([1]),
        "dtype": torch.bfloat16,
        "array": torch.ones(1).numpy(),
        "network": nn.Linear(2, 2),
    }
    torch.save({"epoch": 1, "hyper_parameters": hyper, "state_dict": WEIGHTS}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = map_tensors(path, "restore it")
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in WEIGHTS.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_called(tmp_path: Path, zipped: bool) -> None:
    path, target = tmp_path / "x.ckpt", tmp_path / "made"
    calls = Runs(pathlib.Path.mkdir, target), Runs(torch.save, 1, str(target)), Runs(getattr, nn.Linear, "forward")
    torch.save({"state_dict": WEIGHTS, "more": calls}, path, _use_new_zipfile_serialization=zipped)
    assert list(map_tensors(path, "restore it")) == list(WEIGHTS)
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (builtins.eval, "builtins?__.eval"), (subprocess.check_output, "subprocess.check_output")],
)
def test_programs_are_refused_by_name(tmp_path: Path, function: Any, name: str, zipped: bool) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": WEIGHTS, "more": Runs(function, "1")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"x\.ckpt would run '\w*\.?\w+' when unpickled: do not use") as caught:
        map_tensors(path, "restore it")
    assert name.rsplit(".", 1)[-1] in str(caught.value)


def test_unknown_objects_in_place_of_weights_are_not_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"a": argparse.Namespace(), "b": 3}, path)
    with pytest.raises(CheckpointError, match="no tensors"):
        map_tensors(path, "restore it")
    inert = Inert(1, a=2)
    inert["x"] = 1
    assert inert(3) is inert and vars(inert) == {}


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_values_are_read_when_used(tmp_path: Path, ending: str) -> None:
    """The file is mapped: what is written into it later is seen."""
    from safetensors.torch import save_file

    path = tmp_path / f"x.{ending}"
    state = {"a": torch.full((100_000,), 7.0)}
    torch.save(state, path) if ending == "ckpt" else save_file(state, path)
    mapped = map_tensors(path, "restore it")["a"]
    content = path.read_bytes()
    start = content.index(b"\x00\x00\xe0\x40" * 8)
    with path.open("r+b") as stream:
        stream.seek(start + 4 * 90_000)
        stream.write(b"\x00\x00\x00\x00")
    assert mapped[90_000] == 0


@pytest.mark.skipif(not hasattr(os, "posix_fadvise") or not Path("/proc/self/io").exists(), reason="Linux only")
@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_only_the_header_is_read_from_the_disk(tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split("read_bytes: ")[1].split()[0])

    path = tmp_path / f"x.{ending}"
    state = {str(i): torch.ones(2**20) for i in range(10)}
    torch.save(state, path) if ending == "ckpt" else save_file(state, path)
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # out of the page cache
    os.close(file)
    before = read_bytes()
    assert len(map_tensors(path, "restore it")) == 10
    assert read_bytes() - before < path.stat().st_size // 2


def test_every_shape_and_type_of_a_safetensors_file_is_kept(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    kinds = (torch.bfloat16, torch.bool, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn,
             torch.float8_e5m2, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)  # fmt: skip
    state = {str(kind): torch.arange(6).reshape(1, 2, 3).to(kind) for kind in kinds}
    state |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "odd": torch.ones(3, dtype=torch.uint8)}
    save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    found = map_tensors(tmp_path / "x.safetensors", "restore it")
    expected = load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        assert torch.equal(found[name].double(), value.double())


@pytest.mark.parametrize("name", ["x.safetensors", "zipped.ckpt", "legacy.ckpt"])
def test_the_default_device_does_not_matter(tmp_path: Path, name: str) -> None:
    """The stock pipeline loads within `with self.device`."""
    from safetensors.torch import save_file

    network, path = nn.Linear(3, 2), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        more = argparse.Namespace()  # for the second unpickler
        torch.save({"state_dict": network.state_dict(), "more": more}, path,
                   _use_new_zipfile_serialization=name.startswith("zipped"))  # fmt: skip
    with torch.device("meta"):
        tensors = map_tensors(path, "restore it")
        loaded = nn.Linear(3, 2, device="cpu")
        fill(loaded, tensors, path, "restore it")
    assert all(value.device.type == "cpu" for value in tensors.values())
    assert torch.equal(loaded.weight, network.weight)


def test_the_format_is_read_from_the_content(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "x.ckpt")
    assert list(map_tensors(tmp_path / "x.ckpt", "restore it")) == ["a"]
    torch.save({"a": torch.ones(2)}, tmp_path / "blob")
    assert list(map_tensors(tmp_path / "blob", "restore it")) == ["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (b"PK\3\4 cut off", "are corrupt or incomplete"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", "are corrupt or incomplete"),
        (b"\x05\0\0\0\0\0\0\0{", "are corrupt or incomplete"),
        (b"<\0\0\0\0\0\0\0{", "are corrupt or incomplete"),
    ],
)
def test_other_files_are_recognised(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.ckpt {words}.*: restore it"):
        map_tensors(tmp_path / "x.ckpt", "restore it")


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_cut_anywhere_are_corrupt(tmp_path: Path, ending: str, zipped: bool) -> None:
    from safetensors.torch import save_file

    path, state = tmp_path / f"x.{ending}", {"a": torch.ones(500)}
    if ending == "ckpt":
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(state, path)
    content = path.read_bytes()
    for size in range(1, len(content), 97):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="corrupt or incomplete"):
            map_tensors(path, "restore it")
