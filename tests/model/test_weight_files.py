"""Weights files are mapped, not executed."""

from __future__ import annotations

import argparse
import builtins
import functools
import json
import os
import pathlib
import pickle
import subprocess
import zipfile
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


def write_zip(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("data/0", bytes(24))):
            archive.writestr(f"x/{name}", content)


def storage(name: bytes = b"X\1\0\0\x000", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return b"(X\7\0\0\0storage" + kind + name + b"X\3\0\0\0cpuK\6tQ"


# A tuple of twice the same tuple, 60 times: hashing it takes 2 ** 60 steps.
DEEP = b"Nq\1" + b"h\1h\1\x86q\1" * 60


@pytest.mark.parametrize(
    "pickled",
    [
        b"}" + DEEP + b"Ns.",
        b"}(" + DEEP + b"Nu.",
        b"(" + DEEP + b"Nd.",
        b"\x8f(" + DEEP + b"\x90.",
        b"(" + DEEP + b"\x91.",
        b"ccollections\nOrderedDict\n](((" + DEEP + b"NtNte\x85R.",
        b"cbuiltins\nset\n(" + DEEP + b"l\x85R.",
        storage(DEEP) + b".",
        b"cbuiltins\nbytearray\n\x8a\6\0\0\0\0\0\1\x85R.",
        b"\x96\0\0\0\0\0\1\0\0.",
        b"\x85".join([b"N"] * 2) * 1000 + b".",
        b"\x82\1.",
    ],
)  # fmt: skip
def test_small_files_take_neither_long_nor_much_memory(tmp_path: Path, pickled: bytes) -> None:
    write_zip(path := tmp_path / "x.ckpt", b"\x80\5" + pickled)
    with pytest.raises(CheckpointError, match=r"x\.ckpt (have no tensors|are corrupt|have more than 2 MiB)"):
        map_tensors(path, "restore it")


@pytest.mark.parametrize(
    "target", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.storage\nUntypedStorage\n", b"cx\ny\n"]
)
def test_files_set_no_attributes(tmp_path: Path, target: bytes) -> None:
    before = torch._utils._rebuild_tensor_v2.__defaults__, torch.UntypedStorage.cpu, Inert.__call__
    names = b"(X\x0c\0\0\0__defaults__)X\3\0\0\0cpuNX\x08\0\0\0__call__Nu"
    write_zip(path := tmp_path / "x.ckpt", b"\x80\2" + target + b"N}" + names + b"\x86b.")
    with pytest.raises(CheckpointError, match="no tensors"):
        map_tensors(path, "restore it")
    assert before == (torch._utils._rebuild_tensor_v2.__defaults__, torch.UntypedStorage.cpu, Inert.__call__)


def test_the_items_of_a_mapping_are_its_own(tmp_path: Path) -> None:
    """Every saved state has attributes, `_metadata`; those of a file may hide methods."""
    torch.save(nn.Linear(2, 3).state_dict(), path := tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"X\x09\0\0\0_metadata", b"X\x05\0\0\0items"))
    assert list(map_tensors(path, "restore it")) == ["weight", "bias"]


def test_a_tensor_larger_than_its_storage_is_corrupt(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 3)}, path := tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\x02K\x03\x86", b"M\x00\x10K\x03\x86"))
    with pytest.raises(CheckpointError, match="corrupt"):
        map_tensors(path, "restore it")


def test_parameters_with_attributes_are_read(tmp_path: Path) -> None:
    value = nn.Parameter(torch.ones(2, 3))
    value.no_decay = True
    torch.save({"a": value}, path := tmp_path / "x.ckpt")
    assert torch.equal(map_tensors(path, "restore it")["a"], value)


@pytest.mark.parametrize("forced", ["0", "1"])
def test_plain_weights_are_read_where_other_unpicklers_are_forbidden(
    tmp_path: Path, forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", forced)
    torch.save({"state_dict": WEIGHTS}, path := tmp_path / "x.ckpt")
    assert list(map_tensors(path, "restore it")) == list(WEIGHTS)


def test_compressed_archives_and_programs_are_no_weights(tmp_path: Path) -> None:
    """The values of a compressed archive cannot be mapped, and a small one may hold gigabytes."""
    write_zip(path := tmp_path / "x.ckpt", b"N.", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"x\.ckpt are compressed, as torch\.save never leaves them: restore it"):
        map_tensors(path, "restore it")
    torch.jit.script(nn.Linear(2, 3)).save(str(path))
    with pytest.raises(CheckpointError, match=r"x\.ckpt hold a TorchScript program, not only weights: restore it"):
        map_tensors(path, "restore it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [("a", "F8_E8M0", "have 'a' as F8_E8M0, which is not supported"), ("a\x1b", "U8", r"control characters, 'a\\x1b'")],
)
def test_odd_types_and_names_are_named(tmp_path: Path, name: str, dtype: str, words: str) -> None:
    header = json.dumps({name: {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}}).encode()
    (path := tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(CheckpointError, match=words):
        map_tensors(path, "restore it")


def test_unknown_objects_in_place_of_weights_are_not_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"a": argparse.Namespace(), "b": 3}, path)
    with pytest.raises(CheckpointError, match="no tensors"):
        map_tensors(path, "restore it")
    inert = Inert(1, a=2)
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
