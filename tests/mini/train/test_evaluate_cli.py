"""What `evaluate-mini` concludes from its rows."""

from __future__ import annotations

from typing import Any

import pytest

from fast_sam3d.errors import ConfigError
from fast_sam3d.mini.train.evaluate_cli import (
    BARS,
    FEW,
    HOLD,
    LINEAR,
    _paired,
    accelerated_variant,
    show,
    stiffness_checks,
)

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
def test_few_steps_hurt_when_they_are_worse_by_two_standard_errors(few_f1: Any, few_box: Any, clear: bool) -> None:
    check = stiffness_checks(variants(few_f1, few_box, [0.9] * 4, [0.9] * 4), "25 steps")["few_steps_hurt"]
    assert check["clear"] is clear
    assert check["differences"]["f1@0.01"][0] == pytest.approx(sum(few_f1) / 4 - 0.45)


@pytest.mark.parametrize(
    ("linear", "clear"),
    [([0.85, 0.8, 0.7, 0.6], True), ([0.95, 0.85, 0.88, 0.7], False), ([0.9, 0.85, 0.8, 0.7], False)],
)
def test_predictors_differ_whichever_is_better(linear: list[float], clear: bool) -> None:
    hold = [0.9, 0.85, 0.8, 0.7]
    for first, second in ((linear, hold), (hold, linear)):
        checks = stiffness_checks(variants([0.5] * 4, SAME_BOX, first, second), "25 steps")
        assert checks["predictors_differ"]["clear"] is clear


def test_the_tables_say_what_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    overall = {name: (bar, 0.01) for name, (bar, _) in BARS.items()} | {"chamfer": (0.5, 0.01)}
    checks = stiffness_checks(variants([0.4, 0.31, 0.2, 0.5], SAME_BOX, [0.9] * 4, [0.8] * 4), "25 steps")
    show({"objects": 4, "overall": overall, "families": {}, "variants": {}, "stiffness": checks})
    out = capsys.readouterr().out
    assert out.count("reached") == len(BARS) - 1 and out.count("missed") == 1
    assert f"{FEW} are worse than 25 against the truth: clear" in out
    assert "+0.1000 ± 0.0000" in out


def test_overrides_make_a_variant() -> None:
    variant = accelerated_variant("preset=fast_sam3d ss=off slat.where.keep=0.5")
    assert variant.name == "preset=fast_sam3d ss=off slat.where.keep=0.5"
    assert not variant.config["ss"] and variant.config["slat"]["where"]["keep"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("seed=3", "switches nothing on"),
        ("preset=fast", "no option 'fast'"),
        ("ss=fast_sam3d ss.when=3", "ss.when is 3"),
    ],
)
def test_what_accelerates_nothing_is_refused_before_any_run(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        accelerated_variant(overrides)


def test_speed_is_the_median_of_the_ratios() -> None:
    base = rows(seconds=[1.0, 2.0, 9.0])
    assert _paired(rows(seconds=[0.5, 0.5, 9.0]), base)["speedup"][0] == 2.0
