"""Plots and output files of a bench."""

from __future__ import annotations

import builtins
import math

import pytest
from PIL import Image

from fast_sam3d.bench import plots, results
from fast_sam3d.bench.suite import OFF, OTHER_SEED, Suite, Sweep
from fast_sam3d.bench.summary import standings
from fast_sam3d.errors import FastSam3dError
from tests.bench.test_summary import row

POINTS = {2: "stride 2", 4: "stride 4"}
SUITE = Suite(
    "mine", 3, (1,), dict.fromkeys(["a", "b", *POINTS.values()], "ss=fast_sam3d"), ablation={"SS": "a", "mesh": "b"},
    sweeps=(Sweep("stride", "ss.when.stride", POINTS),), main=("a", "b"),
)  # fmt: skip


def rows(truth=True, objects=3):
    made = []
    for thing in range(objects):
        for number, method in enumerate([OFF, OTHER_SEED, *SUITE.methods]):
            scores = (
                {} if method == OFF else {"plain_volume_iou": 0.9 - 0.1 * number - 0.01 * thing, "plain_box_iou": 0.8}
            )
            if truth:
                scores["truth_f1@0.05"] = 0.7 + 0.01 * number * thing
            times = {"ss_seconds": 1.0 / (number + 1), "slat_seconds": 2.0 / (number + 1), "pointmap_seconds": math.nan}
            made.append(row(method, thing, 1, sum((1.0, 2.0)) / (number + 1) * (1 + 0.1 * thing), **times, **scores))
    return made


def size(path):
    return Image.open(path).size


def test_every_plot_of_a_suite(tmp_path):
    drawn = plots.draw_all(tmp_path, standings(rows()), SUITE)
    assert drawn == ["pareto.png", "stages.png", "ablation.png", "sweeps.png"]
    for name in drawn:
        colours = Image.open(tmp_path / name).convert("RGB").getcolors(1 << 22)
        assert size(tmp_path / name)[0] > 300 and len(colours) > 20


def test_plot_without_ground_truth_omits_a_panel(tmp_path):
    for name, truth in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        plots.draw_all(tmp_path / name, standings(rows(truth)), SUITE)
    for picture in ("pareto.png", "ablation.png"):
        assert size(tmp_path / "with" / picture)[0] > size(tmp_path / "without" / picture)[0]
    assert size(tmp_path / "with" / "sweeps.png")[1] > size(tmp_path / "without" / "sweeps.png")[1]


def test_one_object_and_failed_runs_are_drawn(tmp_path):
    one = rows(objects=1)
    assert len(plots.draw_all(tmp_path, standings(one), SUITE)) == 4
    bare = [row(r["method"], r["object"], 1, math.nan, "no") if r["method"] == "a" else r for r in rows()]
    assert len(plots.draw_all(tmp_path, standings(bare), SUITE)) == 4
    nothing = [row(r["method"], r["object"], 1, math.nan, "no") for r in rows()]
    assert plots.draw_all(tmp_path, standings(nothing), SUITE) == ["stages.png", "ablation.png", "sweeps.png"]


def test_missing_matplotlib_is_an_error(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FastSam3dError, match=r"pip install fast-sam3d\[bench\]"):
        plots.draw_all(tmp_path, standings(rows()), SUITE)


@pytest.mark.parametrize(("package", "says"), [("matplotlib", "--no_pictures"), ("pyarrow", "--parquet")])
def test_missing_package_is_reported_before_any_run(monkeypatch, package, says):
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(FastSam3dError, match=says):
        results.check_packages(pictures=True, parquet=True)
    results.check_packages(pictures=False, parquet=False)


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    written = results.write(tmp_path, rows(), SUITE, ["About."], pictures=False, parquet=True)
    assert written == ["rows.csv", "rows.parquet", "table.md", "summary.json"]
    assert parquet.read_table(tmp_path / "rows.parquet").column("method").to_pylist() == [r["method"] for r in rows()]
