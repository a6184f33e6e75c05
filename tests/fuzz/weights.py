"""Checkpoint folders with a damaged file, an odd number in their settings, or odd tensors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzz.edits import EDITS, edited

KINDS = ("mini", "native", "safetensors")
_ODD = st.sampled_from([
    0, -1, 1, 2, 3, 7, 4096, 10**6, 10**9, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), None, True, "", "x", "1",
    [], {}, [1], {"a": 1}, [[]],
])  # fmt: skip
_TENSORS = (
    "remove",
    "add",
    "shape",
    "scalar",
    "empty",
    "nan",
    "huge",
    "int",
    "float8",
    "complex",
    "bool",
    "bfloat16",
    "double",
)

CASES = st.one_of(
    st.tuples(st.sampled_from(KINDS), st.just("bytes"), st.integers(0, 40), EDITS),
    st.tuples(st.sampled_from(KINDS), st.just("number"), st.integers(0, 400), _ODD),
    st.tuples(st.sampled_from(KINDS), st.just("tensor"), st.integers(0, 400), st.sampled_from(_TENSORS)),
    st.tuples(st.sampled_from(KINDS), st.just("file"), st.integers(0, 40), st.sampled_from(
        ["missing", "empty", "folder", "fifo", "zero", "loop", "outside", "other"])),
)  # fmt: skip
"""(checkpoint, what is damaged, which one, how)."""


def prepare(base: Path) -> None:
    """The valid checkpoints that cases damage."""
    from tests.minis import random_mini
    from tests.native.checkpoint import write_checkpoint

    random_mini().save_pretrained(base / "mini")
    for name, ending in (("native", ".ckpt"), ("safetensors", ".safetensors")):
        (base / name).mkdir(parents=True)
        write_checkpoint(base / name, ending=ending)


def load(base: Path, folder: Path, kind: str, files: dict[str, bytes | None]) -> Any:
    """The pipeline of a checkpoint in which some files have another content; None: they are missing."""
    from fast_sam3d import load_pipeline

    here = folder / "weights"
    here.mkdir(exist_ok=True)
    for path in (base / kind).iterdir():
        if path.name not in files and not (here / path.name).exists() and not (here / path.name).is_symlink():
            (here / path.name).hardlink_to(path)
    for name, content in files.items():
        if content is not None:
            (here / name).write_bytes(content)
    pipeline = load_pipeline(here, device="cpu", runtime="auto" if kind == "mini" else "native")
    if kind != "mini":  # which loads each network before its first use
        with pipeline.residency.using(*(name for name in pipeline.residency.parts if name != "depth_model")):
            pass
    return pipeline


def load_damaged(case: Any, folder: Path, base: Path) -> None:
    kind, what, which, how = case
    names = sorted(path.name for path in (base / kind).iterdir() if path.suffix != ".cache")
    name = names[which % len(names)]
    if what == "bytes":
        load(base, folder, kind, {name: edited((base / kind / name).read_bytes(), how)})
    elif what == "number":
        import yaml

        settings = [name for name in names if name.endswith(".yaml")]
        name = settings[which % len(settings)]
        tree = yaml.safe_load((base / kind / name).read_text())
        places = list(_places(tree))
        *parents, last = places[which // len(settings) % len(places)]
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = how
        load(base, folder, kind, {name: yaml.safe_dump(tree).encode()})
    elif what == "tensor":
        weights = [name for name in names if name.endswith((".ckpt", ".safetensors"))]
        name = weights[which % len(weights)]
        content = _odd_tensor(base / kind / name, which // len(weights), how, folder)
        pipeline = load(base, folder, kind, {name: content} | ({"sha256.json": None} if kind == "mini" else {}))
        assert how not in ("remove", "shape", "scalar", "empty", "nan", "complex"), f"{how} was accepted: {pipeline}"
    else:
        _special(folder / "weights" / name, how, base / kind)
        load(base, folder, kind, {})


def _places(tree: Any, start: tuple[Any, ...] = ()) -> Any:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*start, key)
        yield from _places(value, (*start, key))


def _odd_tensor(path: Path, which: int, how: str, folder: Path) -> bytes:
    from safetensors.torch import load_file, save_file

    from tests.native.checkpoint import read, save

    safe = path.suffix == ".safetensors"
    tensors = load_file(path) if safe else read(path)
    key = sorted(tensors)[which % len(tensors)]
    value = tensors.pop(key)
    if how == "add":
        tensors |= {key: value, f"{key}.more": value.clone()}
    elif how != "remove":
        tensors[key] = {
            "shape": lambda: torch.zeros(*value.shape, 2), "scalar": lambda: torch.tensor(1.0) if value.dim() else torch.zeros(3),
            "empty": lambda: value.flatten()[:0], "nan": lambda: torch.full_like(value, torch.nan),
            "huge": lambda: torch.full(value.shape, 1e308, dtype=torch.float64), "int": lambda: value.to(torch.int32),
            "float8": lambda: value.to(torch.float8_e4m3fn), "complex": lambda: value.to(torch.complex64),
            "bool": lambda: value.bool(), "bfloat16": lambda: value.to(torch.bfloat16), "double": lambda: value.double(),
        }[how]()  # fmt: skip
    target = folder / f"odd{path.suffix}"
    if safe:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
    else:
        save(target, tensors, wrapped=path.stem.endswith("generator"))
    content = target.read_bytes()
    target.unlink()
    return content


def _special(path: Path, how: str, base: Path) -> None:
    import os

    path.parent.mkdir()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "outside":
        path.symlink_to("/etc/hostname")
    elif how == "other":
        others = sorted(other for other in base.iterdir() if other.name != path.name and other.is_file())
        shutil.copy(others[len(path.name) % len(others)], path)
    elif how == "missing":
        path.write_bytes(b"")
        path.unlink()
        for other in base.iterdir():
            if other.name != path.name:
                (path.parent / other.name).hardlink_to(other)
        (path.parent / path.name).with_suffix(".gone").write_bytes(b"")
