"""`fast-sam3d compare`: its files and refused arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli import object_input
from fast_sam3d.metrics import comparison
from tests.stand_in import StandIn, files, run

OBJECT = {"gaussians.ply", "mesh.glb", "pose.json", "preview.png", "report.json"}
QUICK = ("pipeline.ss_steps=4", "pipeline.slat_steps=4")


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    made = StandIn()
    (tmp_path / "weights").mkdir()
    found = Checkpoint("mini", tmp_path / "weights", "mini", "the test says so")
    monkeypatch.setattr(object_input, "find_checkpoint", lambda *asked: found)
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: made)
    # The box's twelve triangles are cut into a million for it, and all boxes are equal.
    monkeypatch.setitem(comparison.PARTS, "volume", lambda found, truth, protocol: {"volume_iou": 1.0})
    return made


def test_compare_writes_sheet_json_and_both_results(pipeline, object_folder, elsewhere, capsys):
    given = ["compare", "--image_path", object_folder, "--rounds", 2, *QUICK]
    code, out, err = run(capsys, *given)
    assert code == 0, err
    folder = elsewhere / "outputs" / "cup_0_compare"
    both = {f"{way}/{name}" for way in ("baseline", "accelerated") for name in OBJECT}
    assert files(folder) == {"compare.png", "compare.json", "baseline", "accelerated", *both}
    assert Image.open(folder / "compare.png").width == 1200
    facts = json.loads((folder / "compare.json").read_text())
    assert facts["preset"] == "default" and facts["rounds"] == 2
    assert [len(facts["seconds"][way]) for way in ("baseline", "accelerated")] == [2, 2]
    assert facts["sampler"] == "own" and facts["network_calls"]["accelerated"] <= facts["network_calls"]["baseline"]
    medians = facts["median_seconds"]
    assert facts["speedup"] == pytest.approx(medians["baseline"] / medians["accelerated"])
    assert facts["drift"]["box_iou"] == pytest.approx(1.0), "the stand-in's box is always the same"
    reports = {way: json.loads((folder / way / "report.json").read_text()) for way in ("baseline", "accelerated")}
    assert reports["baseline"]["methods"] == {} and reports["baseline"]["preset"] == "off"
    assert set(reports["accelerated"]["methods"]) == {"ss", "slat", "exact"}
    assert "x as fast" in out and "box IoU 1.000" in out and "results in outputs/cup_0_compare" in out
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    code, out, _ = run(capsys, *given)
    assert code == 0 and "are complete" in out
    code, _, err = run(capsys, *given, "--preset", "fast")
    assert code == 2 and "--overwrite" in err
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert run(capsys, *given, "--preset", "fast", "--overwrite")[0] == 0
    assert json.loads((folder / "compare.json").read_text())["preset"] == "fast"


def test_single_modules_can_be_compared(pipeline, object_folder, elsewhere, capsys):
    given = ["compare", "--image_path", object_folder, "--rounds", 1, "--enable_ss_cache", "output.preview=false"]
    given += ["--sampler", "mild"]
    assert run(capsys, *given, *QUICK)[0] == 0
    facts = json.loads((elsewhere / "outputs/cup_0_compare/compare.json").read_text())
    assert facts["sampler"] == "mild (rescale_t 3, strength 3)"
    report = json.loads((elsewhere / "outputs/cup_0_compare/accelerated/report.json").read_text())
    assert set(report["methods"]) == {"ss"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--preset", "off"], "nothing is accelerated"),
        (["--sampler", "publishd"], "did you mean 'published'"),
        (["--image_path", "nowhere"], "at nowhere"),
    ],
)
def test_invalid_arguments_are_reported_before_loading(object_folder, elsewhere, capsys, monkeypatch, flags, words):
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: pytest.fail("it was loaded"))
    code, _, err = run(capsys, "compare", "--image_path", object_folder, *flags)
    assert code == 2 and words in err
    assert files(elsewhere) == set()
