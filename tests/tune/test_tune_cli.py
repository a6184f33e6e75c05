"""`fast-sam3d tune`: refused arguments, output files, interruption."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.cli import tune
from fast_sam3d.tune import results
from fast_sam3d.tune import runner as runners
from tests.stand_in import StandIn, run
from tests.tune.landscape import Landscape


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The pipeline that replaces every loaded checkpoint."""
    made = StandIn()
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text("{}")
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: loading.Checkpoint("mini", folder, "mini", "so"))
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: made)
    return made


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch):
    """Measurements by formulas instead of runs."""
    land = Landscape()

    def measure(*settings):
        land.measures = settings[3]
        return land

    monkeypatch.setattr(runners, "PipelineRunner", measure)
    return land


ARGUMENTS = ("--measures", "voxel_iou,ssim", "--trials", "30", "--minutes", "60", "--objects", "5", "--held_out", "4")


def test_writes_preset_evidence_and_plot(capsys, tmp_path, loaded, landscape):
    out = tmp_path / "out"
    code, said, _ = run(capsys, "tune", *ARGUMENTS, "--output_dir", out)
    assert code == 0, said
    names = {results.PRESET, results.TABLE, results.EVIDENCE, results.TRIALS, results.PICTURE}
    assert names <= {path.name for path in out.iterdir()}
    assert "times faster" in said and "Held-out objects" in said
    assert {"exact"} < set(yaml.safe_load((out / results.PRESET).read_text()))
    calls = len(landscape.calls)
    assert run(capsys, "tune", *ARGUMENTS, "--output_dir", out)[0] == 0
    assert len(landscape.calls) == calls, "the same command finds everything measured"


def test_search_starts_with_the_methods_of_presets(capsys, tmp_path, loaded, landscape, monkeypatch):
    from fast_sam3d.tune import search as searching

    plans = []
    whole = searching.Search.__init__
    monkeypatch.setattr(
        searching.Search, "__init__", lambda self, plan, *more: (plans.append(plan), whole(self, plan, *more))[1]
    )
    assert run(capsys, "tune", *ARGUMENTS, "--preset", "fast", "--output_dir", tmp_path / "out")[0] == 0
    (plan,) = plans
    assert [plan.methods[stage][0].option for stage in ("ss", "slat")] == ["guided_stride_fast", "multistep_fast"]


def test_interrupt_writes_the_best_result_so_far(capsys, tmp_path, loaded, landscape):
    landscape.stop_after = 16
    out = tmp_path / "out"
    code, _, said = run(capsys, "tune", *ARGUMENTS, "--output_dir", out)
    assert code == 130 and "best so far" in said and str(out / results.PRESET) in said
    assert "Not measured on held-out objects" in (out / results.TABLE).read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "0"), "--budget is 0"),
        (("--budget", "-1"), "--budget is -1"),
        (("--budget", "nan"), "--budget is nan"),
        (("--minutes", "0"), "--minutes is 0"),
        (("--margin", "-1"), "--margin is -1"),
        (("--objects", "1"), "--objects is 1"),
        (("--held_out", "0"), "--held_out is 0"),
        (("--trials", "0"), "--trials is 0"),
        (("--measures", "voxel"), "unknown measure 'voxel'"),
        (("--seeds", "a"), "--seeds is 'a'"),
        (("--seeds", "-1"), "--seeds is '-1'"),
        (("--cost", "money"), "--cost"),
    ],
)
def test_invalid_arguments_are_refused_before_loading(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: pytest.fail("it was loaded"))
    code, _, error = run(capsys, "tune", "--output_dir", tmp_path / "out", *arguments)
    assert code == 2 and said in error
    assert not (tmp_path / "out").exists()


def test_too_few_objects_are_refused(capsys, tmp_path, loaded, object_folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, error = run(capsys, "tune", "--image_dir", empty)
    assert code == 2 and "no picture with a mask" in error
    few = tmp_path / "few"
    shutil.copytree(object_folder, few)
    for mask in [path for path in few.glob("*.png") if path.stem.isdigit()][1:]:
        mask.unlink()
    code, _, error = run(capsys, "tune", "--image_dir", few)
    assert code == 2 and "at least 4" in error


def test_other_weights_require_image_path(capsys, tmp_path, loaded, monkeypatch):
    folder = loading.find_checkpoint("mini").folder
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: loading.Checkpoint("hf", folder, "sam3d", "so"))
    code, _, error = run(capsys, "tune", "--output_dir", tmp_path / "out")
    assert code == 2 and "add --image_path DIR" in error and "--tag mini" in error


def test_other_solvers_are_refused_before_the_search(capsys, tmp_path, loaded, landscape):
    class Heun:
        def solve_iter(self, *arguments):
            yield 0.0, None

    loaded.models["slat_generator"]._solver = Heun()
    code, _, error = run(capsys, "tune", *ARGUMENTS, "--output_dir", tmp_path / "out")
    assert code == 2 and "Euler" in error and not landscape.calls


@pytest.mark.parametrize("missing", ["optuna", "matplotlib"])
def test_missing_package_is_reported_with_the_pip_command(capsys, tmp_path, monkeypatch, missing):
    whole = tune.importlib.util.find_spec
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None if name == missing else whole(name))
    code, _, error = run(capsys, "tune", "--output_dir", tmp_path / "out")
    assert code == 2 and missing in error and "fast-sam3d[tune]" in error


def test_pictures_are_split_into_disjoint_sets():
    names = [f"{i}" for i in range(10)]
    searched, held_out = tune.split(names, 8, 8)
    assert len(searched) == 7 and len(held_out) == 3 and not set(searched) & set(held_out)
    assert held_out == ["1", "5", "8"]
    assert [len(part) for part in tune.split(names[:4], 8, 8)] == [2, 2]
    assert [len(part) for part in tune.split(names, 3, 2)] == [3, 2]
