"""Files of a search."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from fast_sam3d import accelerate
from fast_sam3d.config.compose import load
from fast_sam3d.tune import results
from fast_sam3d.tune.drift import Share, Verdict
from fast_sam3d.tune.plan import SearchPlan, SearchResult, Trial
from fast_sam3d.tune.plot import draw
from fast_sam3d.tune.space import EXACT, Candidate, methods
from tests.minis import random_mini
from tests.tune.landscape import CASES, HELD_OUT

CHOSEN = Candidate(
    {
        "ss": ("ss=fast_sam3d", "ss.when.stride=4", "ss.predict.layout.beta=0.3"),
        "slat": ("slat=fast_sam3d", "slat.where.keep=0.4"),
        "mesh": ("mesh=fast_sam3d", "mesh.factors=[1.5,1.25,1.0]"),
    }
)
SHARES = {"voxel_iou": Share(0.05, 0.5, 0.1, 0.01), "ssim": Share(0.06, 0.2, 0.3, 0.02)}
SEARCHED = Verdict(CHOSEN.name, 6, (2.5, 0.1), SHARES)
THERE = Verdict(CHOSEN.name, 5, (2.4, 0.05), {**SHARES, "ssim": Share(0.05, 0.2, 0.25, 0.03)})
SAVINGS = Verdict(EXACT, 6, (1.2, 0.02), {name: Share(0.0, 0.2, 0.0, 0.0) for name in SHARES})
ABOUT = results.SearchInfo("mini", "held-out objects", "seconds", 90.0, "torch")


@pytest.fixture(scope="module")
def plan():
    return SearchPlan(0.33, CASES, HELD_OUT, {"ss": methods("ss")})


def found(**changes) -> SearchResult:
    over = Verdict("ss=release exact=all", 4, (1.5, 0.1), {"voxel_iou": Share(0.9, 0.5, 1.8, 0.1)})
    trials = (Trial(CHOSEN, "together", SEARCHED), Trial(Candidate({"ss": ("ss=release",)}), "ss", over))
    given = {
        "chosen": CHOSEN, "searched": SEARCHED, "held_out": THERE, "tried": (THERE, over), "cases": CASES,
        "held_out_cases": HELD_OUT, "trials": trials, "interrupted": False,
    }  # fmt: skip
    return SearchResult(**{**given, **changes})


def test_the_preset_works_in_accelerate_and_equals_its_overrides(tmp_path: Path, plan):
    results.write(tmp_path, found(), (SAVINGS, SAVINGS), plan, ABOUT)
    pipeline = random_mini()
    handle = accelerate(pipeline, config=str(tmp_path / results.PRESET))
    methods_in_force = handle.methods
    assert methods_in_force["ss"]["when"] == {"name": "stride", "stride": 4, "warmup": 2}
    assert methods_in_force["slat"]["where"]["keep"] == 0.4
    assert list(methods_in_force["mesh"]["factors"]) == [1.5, 1.25, 1.0]
    handle.remove()
    # The comment's overrides, as `fast-sam3d infer` takes them, say the same.
    comment = (tmp_path / results.PRESET).read_text().splitlines()[2]
    overrides = comment.partition("--image_path ... ")[2].split()
    other = accelerate(pipeline, config=load(overrides))
    assert other.methods == methods_in_force
    other.remove()


def test_without_a_candidate_the_preset_has_the_exact_savings(tmp_path: Path, plan):
    none = found(chosen=Candidate({}), searched=SAVINGS, held_out=None, tried=())
    results.write(tmp_path, none, (SAVINGS, None), plan, ABOUT)
    text = (tmp_path / results.PRESET).read_text()
    assert "exact savings only" in text.splitlines()[0]
    assert list(yaml.safe_load(text)) == ["exact"]
    handle = accelerate(random_mini(), config=tmp_path / results.PRESET)
    assert list(handle.methods) == ["exact"]
    assert "took all of the time" in results.conclusion(found(**{**vars(none), "trials": ()}), plan)
    assert "was stopped" in results.conclusion(found(**{**vars(none), "interrupted": True}), plan)
    assert "exceeded it on held-out objects" in results.conclusion(found(**{**vars(none), "tried": (THERE,)}), plan)


def test_the_conclusion_uses_the_held_out_objects(plan):
    # The worst share there is 0.25, with one error 0.28.
    said = results.conclusion(found(), plan)
    assert said.startswith("2.40 ± 0.05 times faster on 5 held-out objects, drift at most 0.25 of the seed noise")
    assert "with the margin 0.28; budget 0.33" in said
    searched = results.conclusion(found(held_out=None), plan)
    assert "on 6 searched objects" in searched and "0.30" in searched and "Not measured on held-out objects" in searched


def test_table_and_json_have_every_number(tmp_path: Path, plan):
    results.write(tmp_path, found(), (SAVINGS, SAVINGS), plan, ABOUT)
    table = (tmp_path / results.TABLE).read_text()
    assert "| ssim | 0.0500 | 0.2000 | 0.250 ± 0.030 | yes |" in table
    assert "| voxel_iou | 0.0500 | 0.5000 | 0.100 ± 0.010 | yes |" in table
    assert "the exact savings alone 1.20 ± 0.02" in table and "6 objects and held out 5 objects" in table
    tree = json.loads((tmp_path / results.EVIDENCE).read_text())
    assert tree["held_out"]["shares"]["ssim"]["value"] == 0.25 and tree["budget"] == 0.33
    assert tree["overrides"] == CHOSEN.name and tree["cases"][0] == ["object 0", 42]
    with (tmp_path / results.TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["admissible"] for row in rows] == ["True", "False"]
    assert float(rows[0]["worst_share"]) == 0.3 and float(rows[1]["share_voxel_iou"]) == 1.8


def test_plot_with_and_without_a_chosen_candidate(tmp_path: Path, plan):
    draw(tmp_path / "a.png", found(), SAVINGS, plan)
    draw(tmp_path / "b.png", found(chosen=Candidate({}), searched=SAVINGS, held_out=None, trials=()), SAVINGS, plan)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.png", "b.png")]
    assert sizes[0] > sizes[1] > 5000
