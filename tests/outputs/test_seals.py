"""What has changed in a folder of results since it was written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.outputs.seals import damage, read_sealed, save_sealed


def flip(path: Path, place: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "gaussians.ply").write_bytes(bytes(100))
    save_sealed(tmp_path / "report.json", {"seconds": 1.5})
    content = {
        "files": {"gaussians.ply": 100, "report.json": None}, "camera": {"focal": np.float32(0.1), "near": math.nan},
        "path": "a\udcffb", 3: (True, None),
    }  # fmt: skip
    save_sealed(tmp_path / "done.json", content, ["gaussians.ply"])
    return tmp_path / "done.json"


def test_untouched_files_have_no_damage(sealed):
    content = read_sealed(sealed)
    assert damage(sealed, content) is None
    assert content["camera"]["near"] is None and content["path"] == "a\udcffb" and content["3"] == [True, None]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: flip(folder / "gaussians.ply", 99), "gaussians.ply has been changed"),
        (lambda folder: (folder / "gaussians.ply").write_bytes(bytes(99)), "gaussians.ply has been changed"),
        (lambda folder: (folder / "gaussians.ply").unlink(), "gaussians.ply is missing"),
        (lambda folder: replace(folder / "report.json", "1.5", "1.6"), "report.json has been changed"),
        (lambda folder: (folder / "report.json").write_text("[" * 100_000), "report.json has been changed"),
        (lambda folder: (folder / "report.json").write_bytes(b"\xff"), "report.json has been changed"),
        (lambda folder: replace(folder / "done.json", '"focal": 0.1', '"focal": 0.2'), "done.json has been changed"),
        (lambda folder: replace(folder / "done.json", '"seal"', '"sea1"'), "done.json has been changed"),
        (lambda folder: replace(folder / "done.json", '"sha256"', '"sha257"'), "done.json has been changed"),
        (lambda folder: replace(folder / "done.json", '"files"', '"file5"'), "done.json has been changed"),
    ],
)
def test_damage_is_named(sealed, change: Callable[[Path], object], says):
    change(sealed.parent)
    assert damage(sealed, read_sealed(sealed)) == says


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "{", "\xff", ""])
def test_what_is_no_json_object_is_a_value_error(tmp_path, text):
    (tmp_path / "done.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError):
        read_sealed(tmp_path / "done.json")


def test_of_earlier_versions_the_sizes_are_checked(sealed):
    known = {"files": {"gaussians.ply": 100, "report.json": None}}
    assert damage(sealed, known) is None
    known["files"]["gaussians.ply"] = 99
    assert damage(sealed, known) == "gaussians.ply has been changed"
