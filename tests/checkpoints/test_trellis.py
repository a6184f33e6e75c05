"""TRELLIS: where weights are looked for, and what doctor says of its packages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from fast_sam3d.checkpoints import packages, trellis, trellis_doctor
from fast_sam3d.checkpoints.load import load_checkpoint, locate_checkpoint
from fast_sam3d.checkpoints.requirements import TRELLIS
from fast_sam3d.checkpoints.trellis import HUB_NAME, locate_trellis
from fast_sam3d.errors import CheckpointError
from tests import trellis_package
from tests.stand_in import run

NEEDED = {part.module for parts in TRELLIS.values() for part in parts if not part.optional}


def test_weights_are_a_folder_a_tag_or_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [tmp_path / "checkpoints"]
    monkeypatch.setattr(trellis, "checkpoint_roots", lambda: roots)
    assert locate_trellis(None)[0] == HUB_NAME
    for name in ("trellis", "mine"):
        trellis_package.weights(roots[0] / name)
    found = {
        None: roots[0] / "trellis", "mine": roots[0] / "mine", str(roots[0] / "mine"): roots[0] / "mine",
        str(roots[0] / "mine" / "pipeline.json"): roots[0] / "mine", "owner/name": "owner/name",
    }  # fmt: skip
    assert {tag: locate_trellis(tag)[0] for tag in found} == {tag: str(place) for tag, place in found.items()}
    checkpoint = locate_checkpoint("mine", model="trellis")
    assert (checkpoint.kind, checkpoint.tag, checkpoint.folder) == ("trellis", "mine", roots[0] / "mine")
    for wrong in ("hf", "", "~nobody/x", str(roots[0]), "a/b/c", "x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="no TRELLIS checkpoint"):
            locate_trellis(wrong)
    with pytest.raises(CheckpointError, match="neither a dtype nor a depth model"):
        load_checkpoint(checkpoint, "cpu", "float16")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "names no pipeline"),
        ('{"name": "TrellisImageTo3DPipeline", "args": {}}', "names no models"),
        ('{"name": "Trellis2ImageTo3DPipeline", "args": {"models": {}}}', "Trellis2ImageTo3DPipeline"),
        ('{"name": "TrellisImageTo3DPipeline", "args": {"models": {"a": {"b": 1}}}}', "lacks"),
        ('{"name": "TrellisImageTo3DPipeline", "args": {"models": {"a": "/etc/passwd"}}}', "outside"),
        ("{", "download it again"),
    ],
)
def test_a_pipeline_file_that_is_wrong_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pipeline.json").write_text(text)
    with pytest.raises(CheckpointError, match=said) as failure:
        trellis.check_folder(str(tmp_path))
    assert "\n" not in str(failure.value)


def test_the_package_takes_xformers_where_only_that_is_installed(monkeypatch, tmp_path: Path) -> None:
    code = "import os\nseen = os.environ.get('ATTN_BACKEND')\nclass TrellisImageTo3DPipeline: pass"
    trellis_package.install(monkeypatch, tmp_path, code)
    monkeypatch.delenv("ATTN_BACKEND", raising=False)
    monkeypatch.delenv("SPARSE_ATTN_BACKEND", raising=False)
    monkeypatch.setattr(trellis, "importable", lambda name: name != "flash_attn")
    trellis.check_trellis("owner/name", "cpu")
    assert sys.modules["trellis.pipelines"].seen == "xformers"
    assert "ATTN_BACKEND" not in os.environ


def test_another_gpu_than_the_current_one_is_refused(monkeypatch, tmp_path: Path) -> None:
    trellis_package.install(monkeypatch, tmp_path)
    monkeypatch.setattr(trellis, "torch_device", torch.device)
    with pytest.raises(CheckpointError, match="CUDA_VISIBLE_DEVICES=1"):
        trellis.check_trellis("owner/name", "cuda:1")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Modules that are there; all that TRELLIS needs."""
    modules = {*NEEDED, "xformers"}
    monkeypatch.setattr(packages, "importable", lambda module: module in modules)
    monkeypatch.setattr(packages, "holds", lambda part: True)
    monkeypatch.setattr(trellis_doctor, "holds", lambda part: "flexicubes" not in part or "no submodule" not in modules)
    monkeypatch.setattr(packages, "_version", lambda name: "1.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "no gpu" not in modules)
    return modules


@pytest.mark.parametrize(
    ("without", "extra", "said"),
    [
        ((), (), None),
        (("spconv",), (), "spconv is registered, but its files are missing"),
        (("spconv", "rembg"), (), "rembg, spconv are missing or unusable"),
        (("xformers",), (), "flash_attn or xformers (sparse attention) is missing"),
        ((), ("no submodule",), "submodule FlexiCubes"),
        ((), ("no gpu",), "needs an NVIDIA GPU"),
    ],
)
def test_doctor_says_what_is_missing(installed, capsys, without, extra, said) -> None:
    installed.difference_update(without)
    installed.update(extra)
    code, out, _ = run(capsys, "doctor", "--model", "trellis")
    assert code == (said is not None)
    first = out.splitlines()[0]
    assert first == "ready" if said is None else said in first
    for what in TRELLIS:
        assert f"for {what}" in out
    found = json.loads(run(capsys, "doctor", "--model", "trellis", "--json")[1])
    assert found["ready"] == (said is None)


def test_doctor_checks_a_folder(installed, capsys, tmp_path: Path) -> None:
    place = trellis_package.weights(tmp_path / "weights")
    assert run(capsys, "doctor", "--model", "trellis", "--tag", str(place))[0] == 0
    (place / "ckpts" / "flow.json").unlink()
    code, out, _ = run(capsys, "doctor", "--model", "trellis", "--tag", str(place))
    assert code == 1 and "flow.json" in out
