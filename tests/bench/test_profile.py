"""Alternating timing, its table and its plot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d import cli
from fast_sam3d.bench.profile import PLAIN, Timing, draw, profile
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.cli.profile import lines
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from tests.fakes import FakePipeline, same_vars, snapshot
from tests.stand_in import StandIn

IMAGE, MASK = np.full((6, 8, 3), 9, np.uint8), np.eye(6, 8) > 0
SETTINGS = RunSettings(0, 25, 2, ("mesh",))
CACHED = {"ss": {"when": {"name": "stride", "stride": 5}}}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The pipeline that replaces every loaded checkpoint."""
    made = StandIn()
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: loading.Checkpoint("mini", tmp_path, "mini", "so"))
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: made)
    return made


def test_variants_alternate_and_the_warm_up_round_is_discarded() -> None:
    pipeline = StandIn()
    run_object(pipeline, IMAGE, MASK, settings=SETTINGS)
    del pipeline.arguments
    before, seen, progress = snapshot(pipeline), [], []

    def run() -> ObjectRun:
        network = pipeline.models["ss_generator"].reverse_fn.backbone
        network.calls = 0
        found = run_object(pipeline, IMAGE, MASK, settings=SETTINGS)
        seen.append(network.calls)
        return found

    timings = profile(pipeline, run, {"cached": CACHED}, 3, lambda done, total: progress.append((done, total)))
    few, many = min(seen), max(seen)
    assert seen == [few, many, many, few, few, many, many, few]
    assert progress == [(done, 8) for done in range(1, 9)]
    assert [timing.name for timing in timings] == [PLAIN, "cached"]
    assert all(len(values) == 3 for timing in timings for values in timing.seconds.values())
    assert timings[1].network_calls < timings[0].network_calls
    del pipeline.arguments
    assert same_vars(before, snapshot(pipeline))


def test_earlier_runs_are_not_timed_and_accelerated_on_request() -> None:
    pipeline, order, calls = StandIn(), [], []
    network = pipeline.models["ss_generator"].reverse_fn.backbone

    def run() -> ObjectRun:
        order.append("run")
        return run_object(pipeline, IMAGE, MASK, settings=replace(SETTINGS, ss_steps=2))

    def earlier() -> None:
        network.calls = 0
        run_object(pipeline, IMAGE, MASK, settings=SETTINGS)
        order.append("mask")
        calls.append(network.calls)

    ways = {"first": CACHED, "second": CACHED}
    timings = profile(pipeline, run, ways, 1, earlier=earlier, after={"second"})
    assert order == ["mask", "run"] * 6
    assert calls == [min(calls), *[max(calls)] * 4, min(calls)] and min(calls) < max(calls)
    assert all(0 < timing.network_calls < min(calls) for timing in timings), "one short run each"


def test_ratios_compare_runs_of_the_same_round() -> None:
    plain = Timing(PLAIN, {"ss": [1.0, 4.0], "slat": [1.0, 4.0]}, 10)
    quick = Timing("quick", {"ss": [0.5, 2.0], "slat": [0.5, 0.0]}, 5)
    assert quick.ratios(plain) == [2.0, 4.0]
    table = lines([plain, quick])
    assert table[0].split() == ["median", "seconds", "off", "quick"]
    assert [line.split()[-1] for line in table[-5:]] == ["1.500", "3.00x", "4.00", "5", "no"]


def test_plot_has_one_bar_per_variant(tmp_path) -> None:
    two = [Timing(name, {"ss": [seconds], "slat": [1.0]}) for name, seconds in ((PLAIN, 2.0), ("quick", 1.0))]
    draw(two[:1], tmp_path / "one.png", "one")
    draw(two, tmp_path / "two.png", "two")
    one, both = (Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert both.width == one.width and both.height > one.height
    assert len(both.convert("RGB").getcolors(1 << 20)) > 3


@pytest.mark.parametrize(("ways", "rounds"), [({PLAIN: CACHED}, 1), ({"cached": CACHED}, 0)])
def test_refuses_variants_that_cannot_be_timed(ways, rounds) -> None:
    with pytest.raises(FastSam3dError):
        profile(FakePipeline(), lambda: None, ways, rounds)


def test_the_second_mask_of_a_picture(loaded, object_folder, elsewhere, capsys) -> None:
    covered: list[int] = []
    plain = loaded.run

    def run(image, *args, **kwargs):
        covered.append(int((image[..., 3] > 0).sum()))
        return plain(image, *args, **kwargs)

    loaded.run = run
    code = cli.main(
        ["profile", "--image_path", str(object_folder), "--mask_index", "0", "--after_mask", "2", "--rounds", "1",
         "--accelerate", "ss=fast_sam3d"]
    )  # fmt: skip
    assert code == 0
    assert "ss=fast_sam3d, after mask 2" in capsys.readouterr().out
    disc, around = min(covered), max(covered)
    assert covered == [around, disc] * 6


def test_command_writes_table_plot_and_json(loaded, object_folder, elsewhere, capsys) -> None:
    code = cli.main(
        ["profile", "--image_path", str(object_folder), "--rounds", "2", "--accelerate", "ss=fast_sam3d",
         "--picture", "bars.png", "--json", "bars.json"]
    )  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert "ss=fast_sam3d" in out and "whole object" in out and "picture in bars.png" in out
    assert Image.open(elsewhere / "bars.png").width > 300
    plain, cached = json.loads((elsewhere / "bars.json").read_text())
    assert plain["name"] == PLAIN and cached["network_calls"] < plain["network_calls"]
    again = ["profile", "--image_path", str(object_folder), "--rounds", "1", "--picture", "bars.png"]
    before = (elsewhere / "bars.png").read_bytes()
    assert cli.main(again) == 2 and "bars.png exists: add --overwrite" in capsys.readouterr().err
    assert (elsewhere / "bars.png").read_bytes() == before
    assert cli.main([*again, "--overwrite"]) == 0
    assert (elsewhere / "bars.png").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--accelerate", "preset=fats"], "no option 'fats'"),
        (["--picture", "nowhere/bars.png"], "does not exist"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_runs(
    loaded, object_folder, elsewhere, capsys, arguments, says
) -> None:
    assert cli.main(["profile", "--image_path", str(object_folder), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(elsewhere.iterdir())
