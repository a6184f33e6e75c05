"""A folder under checkpoints/ with any content neither stops nor delays commands that look there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fast_sam3d.checkpoints import load
from tests.documents.test_yaml import HOSTILE

NAMES = "_target_: sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap\n"
PARTS = ("ss_generator", "slat_generator", "ss_decoder", "slat_decoder_gs", "slat_decoder_mesh")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load, "checkpoint_roots", lambda: [tmp_path])
    return tmp_path


def _write(folder: Path, content: str | bytes) -> None:
    folder.mkdir()
    text = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / "pipeline.yaml").write_bytes(text)


@pytest.mark.parametrize("name", ["hf", "other"])
def test_hostile_configurations_are_passed_over(root, name):
    for case in (
        "aliases of aliases",
        "refers to itself",
        "deep blocks",
        "no timestamp",
        "null character",
        "not UTF-8",
    ):
        _write(root / case, HOSTILE[case][0])
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "pipeline.yaml")
    (root / "device").mkdir()
    (root / "device" / "pipeline.yaml").symlink_to("/dev/zero")
    (root / "loop").symlink_to(root / "loop")
    _write(root / name, HOSTILE["aliases of aliases"][0])
    found = load.find_checkpoint(None, "cpu")
    assert found.tag == "mini"
    assert [folder.name for folder in load.stock_folders()] == ["hf"] * (name == "hf")
    if name == "hf":
        assert "20,000 values" in found.reason and "20,000 values" in str(load.check_stock_folder(root / name))


@pytest.mark.parametrize(
    "case", ["aliases of aliases", "refers to itself", "no integer", "deep flow", "null character"]
)
def test_a_hostile_part_of_a_checkpoint_is_a_sentence(root, case):
    lines = [f"{part}_{kind}_path: {part}.{end}" for part in PARTS for kind, end in (("config", "yaml"), ("ckpt", "x"))]
    _write(root / "hf", NAMES + "\n".join(lines))
    for part in PARTS:
        (root / "hf" / f"{part}.yaml").write_text(HOSTILE[case][0])
        (root / "hf" / f"{part}.x").touch()
    problem = load.check_stock_folder(root / "hf")
    assert problem is not None and HOSTILE[case][1] in problem and "ss_generator.yaml" in problem
    assert load.find_checkpoint(None, "cpu").tag == "mini"


@pytest.mark.parametrize("value", ["a\\0b", "/dev/zero", "..", "x" * 300, "\\u202e"])
def test_a_hostile_path_in_pipeline_yaml_is_a_sentence(root, value):
    lines = [f'{part}_{kind}_path: "{value}"' for part in PARTS for kind in ("config", "ckpt")]
    _write(root / "hf", NAMES + "\n".join(lines))
    assert load.check_stock_folder(root / "hf")
    assert load.find_checkpoint(None, "cpu").tag == "mini"
