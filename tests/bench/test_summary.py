"""Statistics and tables, by hand."""

from __future__ import annotations

import math

import pytest

from fast_sam3d.bench.summary import by_sampler, markdown, pareto_front, standings, with_error


def row(method, thing, seed, seconds, error="", **more):
    return {
        "object": thing, "seed": seed, "sampler": "own", "method": method, "error": error, "seconds": seconds,
        "place": 0, **more,
    }  # fmt: skip


ROWS = [
    # Object a with two seeds, object b with one more slow machine, object c alone.
    row("off", "a", 1, 4.0, ss_seconds=1.0, network_calls=10.0, operations=200.0, **{"truth_f1@0.05": 0.8}),
    row("off", "a", 2, 6.0, ss_seconds=1.0, network_calls=10.0, **{"truth_f1@0.05": 0.6}),
    row("off", "b", 1, 8.0, ss_seconds=2.0, network_calls=10.0, **{"truth_f1@0.05": 0.9}),
    row("off", "c", 1, 2.0, ss_seconds=1.0, network_calls=10.0, **{"truth_f1@0.05": 0.5}),
    row("quick", "a", 1, 2.0, network_calls=4.0, operations=50.0, plain_box_iou=0.9, plain_rotation_deg=1.0,
        **{"truth_f1@0.05": 0.7}),
    row("quick", "a", 2, 1.5, network_calls=4.0, plain_box_iou=0.7, plain_rotation_deg=3.0, **{"truth_f1@0.05": 0.7}),
    row("quick", "b", 1, 2.0, network_calls=6.0, plain_box_iou=0.6, plain_rotation_deg=170.0, **{"truth_f1@0.05": 0.7}),
    row("quick", "c", 1, 2.0, network_calls=8.0, plain_box_iou=0.4, plain_rotation_deg=4.0, **{"truth_f1@0.05": 0.5}),
]  # fmt: skip


def test_seeds_of_one_object_are_averaged():
    quick = standings(ROWS)["quick"]
    # Ratios: a (4/2 + 6/1.5) / 2 = 3, b 4, c 1.
    assert quick.speedup[0] == 3.0
    assert quick.network_calls == (pytest.approx(6.0), pytest.approx(2.0 / 3**0.5))  # 4, 6, 8: deviation 2
    assert quick.operations[0] == 0.25 and math.isnan(quick.operations[1])
    assert quick.plain["box_iou"] == (pytest.approx(0.6), pytest.approx(0.2 / 3**0.5))  # 0.8, 0.6, 0.4
    assert quick.seconds[0] == pytest.approx((1.75 + 2 + 2) / 3)


def test_rotation_errors_are_summarised_by_the_median():
    assert standings(ROWS)["quick"].plain["rotation_deg"][0] == 4.0  # the median of 2, 170, 4


def test_differences_in_quality_are_paired():
    found = standings(ROWS)
    # a: (-0.1 + 0.1) / 2 = 0, b: -0.2, c: 0. Mean -0.2 / 3; deviation 0.2 / sqrt(3), error 0.2 / 3.
    assert found["quick"].gain["f1@0.05"] == (pytest.approx(-0.2 / 3), pytest.approx(0.2 / 3))
    assert found["off"].gain == {} and found["off"].truth["f1@0.05"][0] == pytest.approx(0.7)  # 0.7, 0.9, 0.5
    assert found["off"].speedup == (1.0, 0.0)


def test_failed_runs_are_counted_without_seconds():
    rows = [*ROWS, row("quick", "d", 1, math.nan, "ValueError: no", plain_box_iou=0.0), row("off", "d", 1, 3.0)]
    quick = standings(rows)["quick"]
    assert (quick.runs, quick.failed) == (5, 1)
    assert quick.speedup[0] == 3.0 and quick.plain["box_iou"][0] == pytest.approx(0.45)
    assert "1 of 5" in markdown(by_sampler(rows), {"quick": "ss=fast_sam3d"}, ["quick"], [])


def test_an_object_with_a_failed_baseline_has_no_pair():
    rows = [r if (r["method"], r["object"]) != ("off", "b") else row("off", "b", 1, math.nan, "no") for r in ROWS]
    assert standings(rows)["quick"].speedup[0] == 2.0  # 3 and 1


def test_the_pareto_front():
    points = {"a": (1.0, 1.0), "b": (2.0, 0.9), "c": (1.5, 0.8), "d": (3.0, 0.9), "e": (4.0, math.nan), "f": (5.0, 0.1)}
    assert pareto_front(points) == ["a", "d", "f"]
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]
    assert pareto_front({}) == []


def test_numbers_are_printed_with_their_errors():
    assert (
        with_error((2.345, 0.021), 2, unit="x") == "2.35 ± 0.02x"
        or with_error((2.345, 0.021), 2, unit="x") == "2.34 ± 0.02x"
    )
    assert with_error((0.5, math.nan)) == "0.500"
    assert (
        with_error((-0.5, 0.1), 1, sign=True) == "-0.5 ± 0.1" and with_error((0.5, 0.1), 1, sign=True) == "+0.5 ± 0.1"
    )
    assert with_error((math.nan, 1.0)) == with_error(None) == ""


def test_tables_list_every_method():
    text = markdown(by_sampler(ROWS), {"quick": "ss=fast_sam3d"}, ["quick"], ["Said first."])
    lines = text.splitlines()
    assert lines[0] == "Said first." and lines[2] == "### Sampler: own" and "side by side" not in text
    speed = next(line for line in lines if line.startswith("| quick"))
    assert "| 3.00 ±" in speed and "| 25.0 % |" in speed and "| `ss=fast_sam3d` |" in speed and "6.0 ± 1.2" in speed
    assert "| quick | 0.600 ± 0.115 | 4.00 ±" in text
    assert "| off | 0.700 ± 0.115 |" in text and "| quick | -0.067 ± 0.067 |" in text
    assert "box_iou ↑" in text and "rotation_deg ↓" in text


def test_samplers_have_their_own_baselines_and_the_published_one_comes_first():
    slow = [{**r, "sampler": "published", "seconds": r["seconds"] * (2 if r["method"] == "off" else 1)} for r in ROWS]
    other = [{**r, "sampler": "mild", "plain_box_iou": 0.25} for r in ROWS if r["method"] == "off"]
    found = by_sampler([*ROWS, *slow, *other])
    assert list(found) == ["published", "own", "mild"]
    assert (found["published"]["quick"].speedup[0], found["own"]["quick"].speedup[0]) == (6.0, 3.0)
    head, side = markdown(found, {}, ["quick"], []).split("### Samplers side by side")
    assert "### Sampler: published" in head and "| 6.00 ±" in head and "| 3.00 ±" not in head
    faster, *_ = side.split("\n\n", 2)[2].split("| method |")[1:]
    assert faster.startswith(" published | own | mild |")
    cells = next(line for line in faster.splitlines() if line.startswith("| quick")).split("|")[2:5]
    assert [cell.split("±")[0].strip() for cell in cells] == ["6.00", "3.00", ""]


def test_processor_seconds_stand_beside_the_clocks():
    rows = [{**r, "cpu_seconds": r["seconds"] / (2 if r["method"] == "off" else 4)} for r in ROWS]
    quick = standings(rows)["quick"]
    assert quick.cpu_speedup[0] == 6.0 and quick.cpu_seconds[0] == pytest.approx(quick.seconds[0] / 4)
    assert "| faster, processor time | processor seconds |" in markdown(by_sampler(rows), {}, ["quick"], [])


def test_tables_without_ground_truth():
    rows = [{key: value for key, value in r.items() if not key.startswith("truth")} for r in ROWS]
    text = markdown(by_sampler(rows), {}, ["quick"], [])
    assert "Without ground truth" in text and "Against the ground truth" not in text


def test_methods_of_sweeps_have_a_separate_table():
    rows = [*ROWS, *({**r, "method": "stride 4"} for r in ROWS if r["method"] == "quick")]
    main, sweeps = markdown(by_sampler(rows), {}, ["quick"], []).split("### Sweeps")
    assert "stride 4" not in main and "stride 4" in sweeps and "quick" not in sweeps
