"""Conclusions and refusals of `evaluate-mini`."""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fast_sam3d.bench import evaluate_mini as evaluate
from fast_sam3d.bench.evaluate_mini import FEW, HOLD, LINEAR, _paired, accelerated_variant, stiffness_checks
from fast_sam3d.cli import evaluate_mini
from fast_sam3d.cli.evaluate_mini import show
from fast_sam3d.errors import CheckpointError, ConfigError, OutputError
from fast_sam3d.mini.train.card import BARS
from fast_sam3d.model.pipeline import Pipeline
from tests.stand_in import run

Rows = list[dict[str, Any]]


def rows(**metrics: list[float]) -> Rows:
    return [dict(zip(metrics, values, strict=True)) for values in zip(*metrics.values(), strict=True)]


def variants(few_f1: list[float], few_box: list[float], linear: list[float], hold: list[float]) -> dict[str, Rows]:
    return {
        "25 steps": rows(**{"f1@0.01": [0.5, 0.4, 0.3, 0.6], "box_iou": [0.8, 0.7, 0.9, 0.8]}),
        FEW: rows(**{"f1@0.01": few_f1, "box_iou": few_box}),
        LINEAR: rows(base_voxel_iou=linear),
        HOLD: rows(base_voxel_iou=hold),
    }


SAME_BOX = [0.8, 0.7, 0.9, 0.8]


@pytest.mark.parametrize(
    ("few_f1", "few_box", "clear"),
    [
        ([0.4, 0.31, 0.2, 0.5], SAME_BOX, True),  # worse every time
        ([0.6, 0.5, 0.4, 0.7], SAME_BOX, False),  # better every time
        ([0.6, 0.3, 0.2, 0.7], SAME_BOX, False),  # now better, now worse
        ([0.5, 0.4, 0.3, 0.6], [0.7, 0.6, 0.82, 0.7], True),  # the layout alone is worse
    ],
)
def test_few_steps_hurt_if_worse_by_two_standard_errors(few_f1: Any, few_box: Any, clear: bool) -> None:
    check = stiffness_checks(variants(few_f1, few_box, [0.9] * 4, [0.9] * 4), "25 steps")["few_steps_hurt"]
    assert check["clear"] is clear
    assert check["differences"]["f1@0.01"][0] == pytest.approx(sum(few_f1) / 4 - 0.45)


@pytest.mark.parametrize(
    ("linear", "clear"),
    [([0.85, 0.8, 0.7, 0.6], True), ([0.95, 0.85, 0.88, 0.7], False), ([0.9, 0.85, 0.8, 0.7], False)],
)
def test_predictors_differ_in_either_direction(linear: list[float], clear: bool) -> None:
    hold = [0.9, 0.85, 0.8, 0.7]
    for first, second in ((linear, hold), (hold, linear)):
        checks = stiffness_checks(variants([0.5] * 4, SAME_BOX, first, second), "25 steps")
        assert checks["predictors_differ"]["clear"] is clear


def test_tables_show_which_targets_are_reached(capsys: pytest.CaptureFixture[str]) -> None:
    overall = {name: (bar, 0.01) for name, (bar, _) in BARS.items()} | {"chamfer": (0.5, 0.01)}
    checks = stiffness_checks(variants([0.4, 0.31, 0.2, 0.5], SAME_BOX, [0.9] * 4, [0.8] * 4), "25 steps")
    show({"objects": 4, "overall": overall, "families": {}, "variants": {}, "stiffness": checks})
    out = capsys.readouterr().out
    assert out.count("reached") == len(BARS) - 1 and out.count("missed") == 1
    assert f"{FEW} are worse than 25 against the ground truth: clear" in out
    assert "+0.1000 ± 0.0000" in out


def test_variant_from_overrides() -> None:
    variant = accelerated_variant("preset=fast_sam3d ss=off slat.where.keep=0.5")
    assert variant.name == "preset=fast_sam3d ss=off slat.where.keep=0.5"
    assert not variant.config["ss"] and variant.config["slat"]["where"]["keep"] == 0.5


def test_controls_have_other_steps_or_another_seed() -> None:
    fewer = accelerated_variant("pipeline.ss_steps=10 pipeline.slat_steps=8")
    assert (fewer.steps, fewer.slat_steps, fewer.config) == (10, 8, None)
    assert accelerated_variant("seed=43").seed == 43


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pipeline.ss_steps=25", "switches nothing on"),
        ("preset=fastest", "no option 'fastest'"),
        ("ss=fast_sam3d ss.when=3", "ss.when is 3"),
    ],
)
def test_overrides_without_effect_are_refused_before_any_run(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        accelerated_variant(overrides)


def test_speed_is_the_median_of_the_ratios() -> None:
    base = rows(seconds=[1.0, 2.0, 9.0])
    assert _paired(rows(seconds=[0.5, 0.5, 9.0]), base)["speedup"][0] == 2.0


def test_pairs_with_an_unknown_value_are_left_out() -> None:
    base = rows(chamfer=[0.1, 0.2, 0.3, math.nan], box_iou=[math.nan] * 4)
    other = rows(chamfer=[0.2, math.nan, 0.4, 0.5], box_iou=[0.5] * 4)
    assert _paired(other, base, ("chamfer", "box_iou")) == {"chamfer": (pytest.approx(0.1), pytest.approx(0.0))}


def test_one_object_has_no_standard_error() -> None:
    one = {name: found[:1] for name, found in variants([0.1], SAME_BOX[:1], [0.5], [0.9]).items()}
    checks = stiffness_checks(one, "25 steps")
    assert not any(check["clear"] for check in checks.values())
    assert evaluate.summarise(rows(chamfer=[0.5]))["chamfer"][0] == 0.5


def test_standard_error_of_a_median() -> None:
    many = rows(rotation_deg=[1.0] * 50 + [2.0] * 49 + [180.0] * 2)
    middle, error = evaluate.summarise(many)["rotation_deg"]
    assert middle == 2.0 and error < 0.6, "outliers increase only the error of a mean"


# ------------------------------------------------------------------------------------------------------- the command


def arguments(**given: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate_mini.add_arguments(parser)
    args = parser.parse_args([])
    for name, value in given.items():
        setattr(args, name, value)
    return args


class Measured:
    """Replaces the workers: records the measured objects, and interrupts before one."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.stop_after: int | None = None

    def __call__(self, seed: int) -> list[dict[str, Any]]:
        if len(self.seeds) == self.stop_after:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        found = {"seed": seed, "family": "mug", "seconds": 1.0, "chamfer": 0.25, "rotation_deg": math.nan}
        return [{**found, "variant": variant.name} for variant in self.job.variants]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    worker = Measured()
    monkeypatch.setattr(evaluate, "_start", lambda job, threads: setattr(worker, "job", job))
    monkeypatch.setattr(evaluate, "_work", worker)
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda checkpoint: None)
    return worker


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text("ss_flow: {}")
    (folder / "ss_decoder.safetensors").write_bytes(b"1")
    return folder


def test_an_interrupted_evaluation_resumes_and_overwriting_restarts(
    tmp_path: Path, weights: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    args = arguments(tag=str(weights), objects=5, processes=1, output_dir=tmp_path / "a" / "b")
    measured.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate_mini.main(args)
    measured.stop_after = None
    assert evaluate_mini.main(args) == 0
    assert measured.seeds == [10_100_000 + i for i in range(5)], "each once"
    with (args.output_dir / "rows.csv").open(newline="") as file:
        assert [int(row["seed"]) for row in csv.DictReader(file)] == measured.seeds
    evaluate_mini.main(args)
    assert len(measured.seeds) == 5
    args.overwrite = True
    evaluate_mini.main(args)
    assert len(measured.seeds) == 10


@pytest.mark.parametrize("change", ["weights", "sampling", "variants"])
def test_measurements_of_other_settings_are_refused_until_overwritten(
    tmp_path: Path, weights: Path, measured: Measured, change: str
) -> None:
    args = arguments(tag=str(weights), objects=2, processes=1, output_dir=tmp_path / "out")
    evaluate_mini.main(args)
    if change == "weights":
        (weights / "ss_decoder.safetensors").write_bytes(b"2")
    elif change == "sampling":
        args.ss_cfg_strength = 5.0
    else:
        args.preset = ["fast_sam3d"]
    with pytest.raises(OutputError, match="other settings.*--overwrite"):
        evaluate_mini.main(args)
    assert len(measured.seeds) == 2
    args.overwrite = True
    evaluate_mini.main(args)
    assert len(measured.seeds) == 4


def test_the_summary_is_strict_json(tmp_path: Path, weights: Path, measured: Measured) -> None:
    args = arguments(tag=str(weights), objects=1, processes=1, output_dir=tmp_path, accelerate=["ss=fast_sam3d"])
    evaluate_mini.main(args)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["overall"]["chamfer"] == [0.25, None]
    assert "rotation_deg" not in summary["overall"]
    assert summary["variants"]["ss=fast_sam3d"]["against_base"]["speedup"] == [1.0, None]


@pytest.mark.parametrize("flag", ["ss_cfg_strength", "slat_cfg_strength"])
@pytest.mark.parametrize("strength", ["nan", "inf", "-1.0", "much"])
def test_invalid_guidance_strength_is_refused(flag: str, strength: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "evaluate-mini", f"--{flag}", strength)
    assert code == 2 and f"--{flag} is {strength}: give at least 0" in err


def test_output_folder_that_cannot_be_created_is_reported_first(
    tmp_path: Path, weights: Path, measured: Measured
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another --output_dir"):
        evaluate_mini.main(arguments(tag=str(weights), output_dir=tmp_path / "file" / "out"))
    assert not measured.seeds


def test_an_output_folder_that_cannot_be_written_is_reported_first(
    tmp_path: Path, weights: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="cannot be written .Permission denied.: choose another --output_dir"):
        evaluate_mini.main(arguments(tag=str(weights), output_dir=tmp_path / "out"))
    assert not measured.seeds


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint '.*nowhere'"):
        evaluate_mini.main(arguments(tag=str(tmp_path / "nowhere")))


def test_damaged_weights_are_reported_before_any_worker_starts(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pipeline\.yaml"):
        evaluate_mini.main(arguments(tag=str(weights), output_dir=tmp_path / "out"))
