"""A whole calibration within a time limit: runs of the baseline, a search for each sampler, and a check.

What is finished is on disk, so that an interrupted calibration resumes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.fingerprint import fingerprint
from fast_sam3d.adapters.solves import RecordedSolve
from fast_sam3d.bench.record import Record, Rows
from fast_sam3d.config.compose import compose
from fast_sam3d.errors import FastSam3dError, is_out_of_memory
from fast_sam3d.run.object import RunSettings
from fast_sam3d.tune import check
from fast_sam3d.tune.cases import Case, Cases
from fast_sam3d.tune.levels import NAMES, Level, best_within, budgets_of, fast_of
from fast_sam3d.tune.path_search import Agreement, FoundPath, agreement, cost, search
from fast_sam3d.tune.problem import Problem, collect
from fast_sam3d.tune.stored import Stored
from fast_sam3d.tune.time_plan import FEWEST, Costs, TimePlan, make_plan

__all__ = ["Calibration", "Request", "Result"]

log = logging.getLogger(__name__)

DOZEN = 12
"""Runs of the baseline that a calibration takes where no time is given."""
DISAGREE = 3.0
"""Ratio of the error on other objects to that on the objects of the fit from which a schedule means nothing."""
REPEATED = 0.1
"""Relative difference of two runs of one object and seed from which a schedule means nothing."""

ProgressCallback = Callable[[str, float], None]
"""Receives what is done now, and the seconds spent."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        minutes: for everything; None: those of `DOZEN` baseline runs.
        calls: budget of both samplers together, or of each; None: as many as the presets'.
        quality: the least voxel IoU to the baseline; takes the cheapest budget that has it on the objects of the check.
    """

    minutes: float | None = None
    calls: tuple[int, ...] | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Result:
    """What was found.

    Args:
        levels: the budgets with their schedules. chosen, fast: their numbers for the presets `default` and `fast`.
        rows: of the check, see `check.measure`.
        fingerprint: of the pipeline.
        plan, costs: of the time.
        facts: JSON-ready: objects, agreement, repeatability, seconds.
    """

    levels: tuple[Level, ...]
    chosen: int
    fast: int
    rows: Rows
    fingerprint: Mapping[str, Any]
    plan: TimePlan
    costs: Costs
    facts: Mapping[str, Any]


class Calibration:
    """One calibration of one pipeline; its samplers are set before.

    Args:
        pipeline: not accelerated.
        cases: objects.
        request: see the class.
        record: on disk, with what an interrupted calibration has finished.
        progress: receives every step.
    """

    def __init__(
        self, pipeline: Any, cases: Cases, request: Request, record: Record,
        progress: ProgressCallback = lambda phase, seconds: None,
    ) -> None:  # fmt: skip
        self._pipeline, self._cases, self._request, self._record = pipeline, cases, request, record
        self._progress = progress
        self._adapter = adapt(pipeline)
        self._began = time.perf_counter()
        self._live = self._adapter.no_live_layout() is None
        self.seconds = 60.0 * (request.minutes or 0.0)
        self._solves: dict[Case, dict[str, RecordedSolve]] = {}
        self._left_out: set[Case] = set()
        self._stored = Stored(record.path.with_suffix(".solves"))

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._began

    def run(self) -> Result:
        """The whole of it.

        Raises:
            ConfigError: too little time, or a budget below the shortest path.
            FastSam3dError: states that are not finite, or runs that disagree so much that a schedule means nothing.
        """
        stages = [*self._adapter.stages]
        calls = {stage: sum(self._adapter.network_calls(stage)) for stage in stages}
        least = {stage: sum(self._adapter.network_calls(stage, 1)) for stage in stages}
        budgets = budgets_of(calls, least, self._request.calls, self._request.quality is not None)
        run, repeated = self._first_run()
        self.seconds = self.seconds or DOZEN * run
        most = {stage: max(budget[stage] for budget in budgets) for stage in stages}
        known = next(iter(self._solves.values()))
        single = {stage: Problem.of([known[stage]]) for stage in stages}
        costs = _costs(run, calls, budgets, single, most)
        plan = self._planned(costs)
        log.info("%s", plan.sentence(costs, self.seconds))
        cases = self._collect(plan)
        found: dict[str, dict[int, FoundPath]] = {}
        agreements: dict[str, Agreement] = {}
        for number, stage in enumerate(stages):
            self._progress(f"schedules of the {NAMES[stage]}", self.spent)
            problem = Problem.of([self._solves[case][stage] for case in cases])
            wanted = [budget[stage] for budget in budgets]
            left = self.seconds - self.spent - plan.checked * costs.check()  # the check has its time
            seconds = max(left, 0.0) / (len(stages) - number)
            found[stage], agreements[stage] = self._search(problem, most[stage], wanted, plan, cases, seconds)
        self._solves.clear()
        levels = []
        for budget in budgets:
            level = Level({stage: best_within(found[stage], budget[stage]) for stage in stages})
            if level not in levels:
                levels.append(level)
        rows, checked = self._check(levels, costs)
        self._stored.clear()
        chosen = self._chosen(rows)
        facts = {
            "calibration": [list(case) for case in cases], "check": [list(case) for case in checked],
            "same_objects": self._cases.same_objects, "seconds": self.spent, "repeated": repeated,
            "agreement": {s: {"seen": a.seen, "unseen": a.unseen, "ratio": a.ratio} for s, a in agreements.items()},
            "schedules": {stage: [path.plain for path in found[stage].values()] for stage in stages},
            "baseline_calls": calls,
        }  # fmt: skip
        own = fingerprint(self._adapter)
        return Result(tuple(levels), chosen, fast_of(levels, chosen), rows, own, plan, costs, facts)

    def _planned(self, costs: Costs) -> TimePlan:
        """What the time allows; the plan of an interrupted calibration with the same limit is kept."""
        key = f"plan {self._request}"
        if key not in self._record.rows:
            cases = self._cases
            spent = self.spent
            plan = make_plan(costs, self.seconds - spent, len(cases.calibration), len(cases.check), spent)
            self._record.add(key, [asdict(plan)])
        (known,) = self._record.rows[key]
        return TimePlan(**{**known, "full": tuple(known["full"])})

    # -------------------------------------------------------------------------------------------- the baseline

    def _first_run(self) -> tuple[float, float]:
        """Seconds of a baseline run, and the relative difference of two runs of one object and seed."""
        self._progress("time of one run", self.spent)
        first = next(case for case in self._cases.calibration if self._collected(case))
        began = time.perf_counter()
        again = collect(self._pipeline, self._cases.load(first), first[1])
        run = time.perf_counter() - began
        worst = max(_difference(self._solves[first][stage], again[stage]) for stage in again)
        if not worst < REPEATED:
            raise FastSam3dError(
                f"two runs of object {first[0]} with seed {first[1]} differ by {worst:.2g} of the latent: a schedule"
                f" measured on this pipeline means nothing (the limit is {REPEATED:g}); use preset=default"
            )
        return run, worst

    def _collected(self, case: Case) -> bool:
        """Run the baseline on a case; whether it can be used. Raises where none of the first two can."""
        if case in self._solves or case in self._left_out:
            return case in self._solves
        template = next(iter(self._solves.values()), None)
        known = None if template is None else self._stored.load(case, template)
        try:
            self._solves[case] = known or collect(self._pipeline, self._cases.load(case), case[1])
        except FastSam3dError as error:
            self._left_out.add(case)
            if template is None and len(self._left_out) == min(FEWEST, len(self._cases.calibration)):
                raise
            log.warning("object %s is left out: %s", case[0], error)
            return False
        if known is None and template is not None:
            self._stored.save(case, self._solves[case])
        return True

    def _collect(self, plan: TimePlan) -> list[Case]:
        """Run the baseline on as many cases as planned, fewer on a busy machine."""
        found: list[Case] = []
        for case in self._cases.calibration:
            late = self.spent > 0.5 * self.seconds and len(found) >= FEWEST
            if len(found) == plan.objects or late:
                break
            self._progress(f"baseline of object {len(found) + 1} of {plan.objects}", self.spent)
            if self._collected(case):
                found.append(case)
        if len(found) < min(FEWEST, len(self._cases.calibration)):
            raise FastSam3dError(
                f"only {len(found)} of {len(self._cases.calibration)} objects can be used, and a calibration needs"
                f" {FEWEST}: give other pictures, or check the weights"
            )
        return found

    # ---------------------------------------------------------------------------------------------- the search

    def _search(
        self, problem: Problem, most: int, wanted: list[int], plan: TimePlan, cases: list[Case], seconds: float
    ) -> tuple[dict[int, FoundPath], Agreement]:
        """The schedules of one stage by calls, from the record where they were found before."""
        full = problem.stage in plan.full
        key = f"{problem.stage} {most} {wanted} {cases} {full}"
        if key in self._record.rows:
            (row,) = self._record.rows[key]
            paths = [FoundPath.of(path) for path in row["paths"]]
            return {path.calls: path for path in paths}, Agreement(**row["agreement"])
        phase = f"schedules of the {NAMES[problem.stage]}"
        found = search(
            [problem], most, assume=not full, seconds=seconds, rounds=2 if full else 0,
            only=None if full else wanted, progress=lambda share: self._progress(phase, self.spent),
        )  # fmt: skip
        agreed = agreement(problem, best_within(found, wanted[0]))
        if agreed.ratio > DISAGREE:
            raise FastSam3dError(
                f"{NAMES[problem.stage]}: a schedule fitted on some objects has {agreed.ratio:.1f} times the error on"
                f" others ({agreed.unseen:.3g} against {agreed.seen:.3g}), so that a calibration on"
                f" {problem.objects} objects means nothing: give more --objects and --minutes, or use preset=default"
            )
        facts = {"seen": agreed.seen, "unseen": agreed.unseen}
        self._record.add(key, [{"paths": [path.plain for path in found.values()], "agreement": facts}])
        return found, agreed

    # ----------------------------------------------------------------------------------------------- the check

    def _check(self, levels: list[Level], costs: Costs) -> tuple[Rows, list[Case]]:
        """Rows of the check, and its cases: as many as the time allows, at least one."""
        exact = compose(["exact=all"])[0]["exact"]
        ways = []
        for number, level in enumerate(levels):
            ways.append(check.Way(check.PATH, number, {**level.methods(self._live), "exact": exact}, (None, None)))
            few = [check.fewer_steps(self._pipeline, stage, path.calls) for stage, path in level.paths.items()]
            ways.append(check.Way(check.STEPS, number, {"exact": exact}, (few[0], few[1])))
        rows: Rows = []
        done: list[Case] = []
        spent: list[float] = []
        for case in self._cases.check:
            expected = max(spent) if spent else costs.check()
            if done and self.spent + expected > self.seconds:
                break
            self._progress(f"check on object {len(done) + 1}", self.spent)
            key = f"check {case} {[way.config for way in ways]}"
            if key not in self._record.rows:
                began = time.perf_counter()
                formats = ("gaussian",) if "gaussian" in self._adapter.formats else tuple(self._adapter.formats)[:1]
                self._record.add(key, self._measured(case, ways, formats))
                spent.append(time.perf_counter() - began)
            rows += self._record.rows[key]
            done.append(case)
        return rows, done

    def _measured(self, case: Case, ways: list[check.Way], formats: tuple[str, ...]) -> Rows:
        try:
            return check.measure(self._pipeline, self._cases.load(case), ways, RunSettings(case[1]), formats)
        except Exception as error:
            if is_out_of_memory(error) or not isinstance(error, FastSam3dError):
                raise
            log.warning("object %s is left out of the check: %s", case[0], error)
            return []

    def _chosen(self, rows: Rows) -> int:
        """The level for the preset `default`."""
        if self._request.quality is None:
            return 0
        known = {row["level"]: row for row in check.summary(rows) if row["kind"] == check.PATH and "voxel_iou" in row}
        reached = [level for level, row in known.items() if row["voxel_iou"][0] >= self._request.quality]
        if reached:
            return min(reached, key=lambda level: float(known[level]["calls"][0]))
        if not known:
            return 0
        best = max(known, key=lambda level: float(known[level]["voxel_iou"][0]))
        log.warning(
            "no schedule has a voxel IoU of %g: the closest one has %.3f", self._request.quality,
            known[best]["voxel_iou"][0],
        )  # fmt: skip
        return best


def _costs(
    run: float, calls: Mapping[str, int], budgets: list[dict[str, int]], single: Mapping[str, Problem],
    most: Mapping[str, int],
) -> Costs:  # fmt: skip
    """What a calibration costs, from the problems of one object."""
    full, short = {}, {}
    for stage, problem in single.items():
        states = [[group.states[0] for group in problem.groups]] * 4
        began = time.perf_counter()
        problem.velocities(states, 0)
        call = (time.perf_counter() - began) / (len(states) * problem.calls[0])
        fitted = 2 * budgets[0][stage]  # whether the halves of the objects agree
        full[stage] = call * (cost(problem, most[stage]) + fitted)
        short[stage] = call * (sum(budget[stage] for budget in budgets) + fitted)
    return Costs(run, sum(calls.values()), full, short, tuple(sum(budget.values()) for budget in budgets))


def _difference(one: RecordedSolve, other: RecordedSolve) -> float:
    """Relative difference of the results of two solves; 0 of structured latents with different numbers of voxels."""
    a, b = (solve.states[-1][solve.stage.bare] for solve in (one, other))
    if a.shape != b.shape:  # the structures differ, too
        return 0.0
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
