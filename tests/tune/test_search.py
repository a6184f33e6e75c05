"""The search on a landscape with a known optimum."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fast_sam3d.bench.record import Record
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune import sampler
from fast_sam3d.tune.measurements import Measurements
from fast_sam3d.tune.plan import SearchPlan, SearchResult
from fast_sam3d.tune.search import Search
from fast_sam3d.tune.space import EXACT, STAGES, methods
from tests.tune.landscape import CASES, HELD_OUT, MEASURES, Clock, Landscape, truth

STRIDES = ("fast_sam3d", "step_cache", "taylorseer", "deis")


@pytest.fixture(scope="module")
def known():
    """The methods that the landscape covers."""
    found = {stage: [m for m in methods(stage) if m.option in STRIDES] for stage in ("ss", "mesh")}
    found["slat"] = [m for m in methods("slat") if m.option in ("step_cache", "taylorseer", "deis")]
    return {stage: found[stage] for stage in STAGES}


def search(
    known, budget=0.33, seconds=120.0, trials=None, record=None, land=None, cost="seconds", **options
) -> SearchResult:
    land = land or Landscape()
    measurements = Measurements(land, MEASURES, cost, record, clock=Clock())
    return Search(SearchPlan(budget, CASES, HELD_OUT, known, seconds, trials, **options), measurements).run()


def best(budget: float) -> float:
    """The fastest of all combinations within the budget, by trying each."""
    speeds = []
    for ss, slat, mesh in itertools.product(range(1, 11), range(1, 11), (False, True)):
        parts = [f"ss=step_cache ss.when.stride={ss}"] if ss > 1 else []
        parts += [f"slat=step_cache slat.when.stride={slat}"] if slat > 1 else []
        parts += ["mesh=fast_sam3d"] if mesh else []
        speed, share = truth(" ".join(parts))
        if share <= budget:
            speeds.append(speed)
    return max(speeds)


@pytest.mark.parametrize("budget", [0.1, 0.33, 1.0])
def test_the_result_is_admissible_and_nearly_the_fastest(known, budget):
    found = search(known, budget)
    speed, share = truth(found.chosen.name)
    assert share <= budget, found.chosen.name
    assert speed > 0.88 * best(budget)
    for verdict in (found.searched, found.held_out):
        assert verdict is not None and verdict.admissible(budget, 1.0)
    assert found.held_out_cases == HELD_OUT and not found.interrupted


def test_more_budget_is_never_slower(known):
    speeds = [truth(search(known, budget).chosen.name)[0] for budget in (0.01, 0.2, 2.0)]
    assert speeds == sorted(speeds) and speeds[0] < 0.6 * speeds[-1]


def test_without_admissible_candidates_the_exact_savings_remain(known):
    found = search(known, budget=1e-4)
    assert found.chosen.name == EXACT and not found.chosen.stages
    assert found.searched.name == EXACT and len(found.trials) > 10


def test_candidates_over_budget_on_held_out_objects_are_not_returned(known):
    class Elsewhere(Landscape):
        def row(self, method, case):
            self.factor = 10.0 if case in HELD_OUT else 1.0
            return super().row(method, case)

    found = search(known, land=Elsewhere())
    assert found.tried and all(verdict.worst(1.0) > 0.33 for verdict in found.tried)
    assert found.chosen.name == EXACT and found.held_out is not None


def test_failed_candidates_are_not_returned(known):
    found = search(known, land=Landscape(fails="slat=step_cache"))
    assert "slat=step_cache" not in found.chosen.name and found.chosen.stages
    assert any(trial.verdict.failed for trial in found.trials)


def test_an_interrupted_and_resumed_search_equals_one_run(known, tmp_path: Path):
    (tmp_path / "whole").mkdir()
    whole = search(known, record=Record(tmp_path / "whole", {"run": "whole"}))
    for stop in (3, 20, 40):
        land = Landscape(stop_after=stop)
        try:
            part = search(known, record=Record(tmp_path, {"run": "parts"}), land=land)
        except KeyboardInterrupt:
            assert stop == 3, "before the unaccelerated runs there is no result to keep"
        else:
            assert part.interrupted
    land = Landscape()
    # As texts, because NaN does not equal itself.
    assert repr(search(known, record=Record(tmp_path, {"run": "parts"}), land=land)) == repr(whole)
    again = Landscape(stop_after=0)
    assert repr(search(known, record=Record(tmp_path, {"run": "parts"}), land=again)) == repr(whole)
    assert len(land.calls) > 0, "the last start had measurements left"


def test_an_interrupted_search_returns_the_best_so_far(known):
    found = search(known, land=Landscape(stop_after=60))
    assert found.interrupted and found.held_out is None
    assert found.chosen.stages and truth(found.chosen.name)[1] <= 0.33
    assert found.searched.admissible(0.33, 1.0)


def test_the_time_limit_is_respected(known):
    for seconds in (40.0, 90.0):
        land = Landscape()
        search(known, seconds=seconds, land=land)
        # The clock advances a second per call; the smallest validation and a batch may exceed the limit.
        assert len(land.calls) <= seconds + len(CASES)


def test_the_trial_limit_is_respected(known):
    found = search(known, trials=12, seconds=1e6)
    assert len(found.trials) <= 12 and found.chosen.stages


def test_the_mesh_stage_is_not_tuned_by_calls(known):
    found = search(known, cost="calls", seconds=120.0)
    assert {trial.phase for trial in found.trials} == {"ss", "slat", "together"}
    assert found.chosen.stages and truth(found.chosen.name)[1] <= 0.33


def test_objects_that_fail_unaccelerated_are_left_out(known):
    class Broken(Landscape):
        def row(self, method, case):
            row = super().row(method, case)
            return {**row, "error": "RuntimeError: planned failure"} if case == CASES[1] else row

    found = search(known, land=Broken())
    assert CASES[1] not in found.cases and len(found.cases) == 5 and found.chosen.stages

    class AllBroken(Landscape):
        def row(self, method, case):
            return {**super().row(method, case), "error": "RuntimeError: planned failure"}

    with pytest.raises(FastSam3dError, match="tuning needs two"):
        search(known, land=AllBroken())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0.0}, "budget is 0.0"),
        ({"budget": float("nan")}, "budget"),
        ({"seconds": 0.0}, "0.0 seconds"),
        ({"trials": 0}, "trials is 0"),
        ({"margin": -1.0}, "margin is -1.0"),
    ],
)
def test_invalid_plans(known, options, said):
    with pytest.raises(FastSam3dError, match=said):
        search(known, **options)
    with pytest.raises(FastSam3dError, match="two objects"):
        SearchPlan(0.33, CASES[:1], HELD_OUT, known)
    with pytest.raises(FastSam3dError, match="no method"):
        SearchPlan(0.33, CASES, HELD_OUT, {})


def test_missing_optuna_is_an_error(known, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(FastSam3dError, match=r"fast-sam3d\[tune\]"):
        sampler.import_optuna()


def test_time_remains_for_the_last_combinations(known):
    received: list[tuple[str, float]] = []
    measurements = Measurements(Landscape(), MEASURES, clock=Clock())
    plan = SearchPlan(0.33, CASES, HELD_OUT, known, seconds=200.0)
    Search(plan, measurements, lambda phase, spent, note: received.append((phase, spent))).run()
    last = dict(received)
    assert max(last[stage] for stage in STAGES) <= 0.70 * 200 + 3, "a batch may be running"
    assert max(last[stage] for stage in STAGES) > 0.60 * 200, "the remaining time is used"
