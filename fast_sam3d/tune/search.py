"""Search for the fastest settings within a drift budget: single stages, combinations, then held-out objects.

A candidate has a dozen settings and one run takes seconds to a minute, so a joint search would see too little of each
setting. But seconds add up over stages, and drifts nearly do. So each stage is searched alone, and the sums of their
seconds and drifts predict which combinations are worth measuring; measured combinations correct the predictions. A
greedy order of the stages would let the first one use up the budget.

Each candidate is measured on one object, promising ones on three, combinations on all, and the fastest admissible ones
on held-out objects, where the same budget must hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, product

import numpy as np

from fast_sam3d.bench.suite import OTHER_SEED
from fast_sam3d.bench.summary import pareto_front
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.drift import Verdict
from fast_sam3d.tune.measurements import Case, Measurements
from fast_sam3d.tune.plan import ProgressCallback, SearchPlan, SearchResult, Trial
from fast_sam3d.tune.sampler import StageSampler, import_optuna
from fast_sam3d.tune.space import EXACT, STAGES, Candidate

ORDER = ("ss", "slat", "mesh", "ss", "slat")  # turns of the stages; the mesh decoder has few settings
# Shares of the time at which each phase ends: unaccelerated runs, single stages, single stages after the first
# combinations, combinations.
BASE_SHARE, ALONE_SHARE, AGAIN_SHARE, TOGETHER_SHARE = 0.25, 0.60, 0.70, 0.85
ALONE_TRIALS = 0.7  # share of the trials, if limited, for single stages
BATCH = 5  # candidates per unaccelerated run
FIRST_LOOK, SECOND_LOOK = 1, 3  # cases after which candidates may be dropped
HOPELESS = 2.0  # times the budget: dropped after the first look
WORTH_ADDING = 1.3  # times the budget: settings of a stage above it are not combined
FRONT = 8  # settings per stage that are combined
FINALISTS = 3  # candidates measured on held-out objects at once
FEWEST = 3  # objects measured regardless of the time
GIVE_UP = 40  # candidates of a stage after which it is left, if none came near the budget
NEGLIGIBLE = 0.03  # share of the seconds below which a stage is not tuned
TOUCHES = {"ss": ("ss",), "slat": ("slat",), "mesh": ("slat", "mesh", "gaussian")}
"""Stages with seconds that depend on the settings of one: voxels may be merged before the latent is sampled."""


class Search:
    """One search.

    Args:
        plan: budget, objects, methods and limits.
        measurements: runs and caches candidates.
        report: receives the progress.
    """

    def __init__(
        self, plan: SearchPlan, measurements: Measurements, report: ProgressCallback = lambda phase, spent, note: None
    ) -> None:
        self.plan = plan
        self._measurements = measurements
        self._report = report
        self._cases: list[Case] = []
        self._held_out: list[Case] = []
        self._trials: dict[str, tuple[Candidate, str]] = {}
        self._tried: list[str] = []

    def run(self) -> SearchResult:
        """Search until the time or the trials are used up, or nothing is left to try.

        A KeyboardInterrupt ends it early with the results so far; before the unaccelerated runs it is raised.

        Raises:
            FastSam3dError: optuna is not installed; fewer than two objects can be run unaccelerated.
        """
        optuna = import_optuna()
        self._base()
        interrupted = False
        try:
            samplers = {stage: StageSampler(optuna, stage, self.plan) for stage in self._worthwhile()}
            self._alone(samplers, ALONE_SHARE, ALONE_TRIALS)
            self._together()
            # The rest of the time alternates between single stages and combinations.
            while samplers and not self._time_is_up(AGAIN_SHARE) and self._trials_left() > BATCH:
                self._alone(samplers, AGAIN_SHARE, 1.0, rounds=1)
                self._together()
            self._validate()
        except KeyboardInterrupt:
            interrupted = True
        return self._result(interrupted)

    def _measure(self, methods: Sequence[str], case: Case, phase: str) -> None:
        self._measurements.measure(methods, case)
        self._report(phase, self._measurements.spent, self._best_as_text())

    def _verdict(self, name: str, held_out: bool = False) -> Verdict:
        return self._measurements.verdict(name, self._held_out if held_out else self._cases)

    def _base(self) -> None:
        for case in self.plan.cases:
            late = self._measurements.spent > BASE_SHARE * self.plan.seconds
            if late and len({name for name, _ in self._cases}) >= FEWEST:
                break
            self._measure([OTHER_SEED, EXACT], case, "unaccelerated")
            if self._measurements.usable(case):
                self._cases.append(case)
        if len({name for name, _ in self._cases}) < 2:
            raise FastSam3dError(
                f"only {len(self._cases)} of {len(self.plan.cases)} unaccelerated runs succeeded: tuning needs two"
                " objects that the pipeline can reconstruct; see the log for the errors"
            )

    def _time_is_up(self, share: float) -> bool:
        return self._measurements.spent >= share * self.plan.seconds

    def _trials_left(self, share: float = 1.0) -> int:
        if self.plan.trials is None:
            return BATCH + 1
        return max(math.ceil(share * self.plan.trials) - len(self._trials), 0)

    def _stepwise(
        self, batch: Sequence[Candidate], phase: str, cases: Sequence[Case], drop: Callable[[str], bool]
    ) -> None:
        """Measure candidates case by case, dropping some after the first and second look."""
        for candidate in batch:
            self._trials.setdefault(candidate.name, (candidate, phase))
        left = [candidate.name for candidate in batch]
        for number, case in enumerate(cases):
            if number in (FIRST_LOOK, SECOND_LOOK):
                left = [name for name in left if not drop(name)]
            if not left:
                break
            self._measure(left, case, phase)

    # ------------------------------------------------------------------------------------------ single stages

    def _alone(self, samplers: dict[str, StageSampler], share: float, trials: float, rounds: float = math.inf) -> None:
        """Batches of single stages, until a share of the time or of the trials is used up; at most `rounds`."""
        while samplers and rounds > 0:
            rounds -= 1
            for stage in ORDER:
                count = min(BATCH, self._trials_left(trials))
                if self._time_is_up(share) or not count:
                    return
                if stage not in samplers:
                    continue
                sampler = samplers[stage]
                batch = sampler.ask(count)
                if not batch or self._is_hopeless(stage):
                    del samplers[stage]
                    continue
                self._stepwise(
                    batch, stage, self._cases[:SECOND_LOOK],
                    lambda name: self._verdict(name).worst() > HOPELESS * self.plan.budget,
                )  # fmt: skip
                sampler.tell({c.name: (1.0 / self._alone_cost(c), self._verdict(c.name).worst()) for c in batch})

    def _is_hopeless(self, stage: str) -> bool:
        """Whether many candidates of a stage were measured and none was near the budget."""
        own = [self._verdict(candidate.name) for candidate, phase in self._trials.values() if phase == stage]
        return len(own) >= GIVE_UP and all(v.worst() > WORTH_ADDING * self.plan.budget for v in own)

    def _alone_cost(self, candidate: Candidate) -> float:
        """Cost of a single-stage candidate relative to the unaccelerated run.

        Uses the seconds of the touched stages only, because those of the others are noise.
        """
        own = self._verdict(candidate.name)
        if self._measurements.cost != "seconds":
            return 1.0 / own.speed[0]
        (stage,) = candidate.stages
        saved = self._measurements.saved(candidate.name, EXACT, TOUCHES[stage], self._cases)
        return 1.0 / self._verdict(EXACT).speed[0] - saved

    def _worthwhile(self) -> list[str]:
        """Stages with methods to try and a relevant share of the seconds."""
        cost, found = self._measurements.cost, []
        whole = sum(self._seconds(stage) for stage in STAGES)
        for stage in STAGES:
            if not self.plan.methods.get(stage):
                continue
            small = cost in ("seconds", "cpu_seconds") and self._seconds(stage) < NEGLIGIBLE * whole
            if not small and (cost != "calls" or stage != "mesh"):  # the mesh decoder calls no sampler's network
                found.append(stage)
        return found

    def _seconds(self, stage: str) -> float:
        seconds = self._measurements.stage_seconds(EXACT, stage, self._cases)
        return seconds if math.isfinite(seconds) else 0.0

    # ------------------------------------------------------------------------------------------- combinations

    def _together(self) -> None:
        combinations = self._combinations()
        while combinations and not self._time_is_up(TOGETHER_SHARE):
            best = self._best()
            limit = math.inf if best is None else 1.0 / best.speed[0]
            factors = self._factors()
            guesses = []
            for candidate in combinations:
                if self._measurements.cases(candidate.name) and self._measured_enough(candidate.name):
                    continue
                cost, worst = self._predict(candidate, factors)
                if cost < limit:
                    guesses.append((cost, worst, candidate))
            within = sorted(
                (g for g in guesses if g[1] <= self.plan.budget), key=lambda guess: (guess[0], guess[2].name)
            )
            if not within:  # predictions may be wrong: the closest ones, at any distance without a best
                near = math.inf if best is None else WORTH_ADDING * self.plan.budget
                careful = (guess for guess in guesses if guess[1] <= near)
                within = sorted(careful, key=lambda guess: (guess[1], guess[2].name))
            batch: list[Candidate] = []
            left = self._trials_left()
            for _, _, candidate in within:
                known = candidate.name in self._trials  # no additional trial
                if len(batch) < BATCH and (known or left > 0):
                    batch.append(candidate)
                    left -= not known
            if not batch:
                return
            self._stepwise(batch, "together", self._cases, self._beaten)

    def _measured_enough(self, name: str) -> bool:
        """Measured on all cases, or dropped."""
        return len(self._measurements.cases(name)) >= len(self._cases) or self._beaten(name)

    def _beaten(self, name: str) -> bool:
        """Whether a candidate is over the budget, or slower than the best, by more than one standard error."""
        own, best = self._verdict(name), self._best()
        if own.worst() > HOPELESS * self.plan.budget:
            return True
        if own.objects > FIRST_LOOK and any(s.value - s.error > self.plan.budget for s in own.shares.values()):
            return True
        return best is not None and best.name != name and own.speed[0] + own.speed[1] < best.speed[0]

    def _combinations(self) -> list[Candidate]:
        """Products of the Pareto-best settings of each stage, each stage optionally unaccelerated."""
        fronts: list[list[tuple[str, ...]]] = []
        for stage in STAGES:
            points, settings = {}, {}
            for candidate, phase in self._trials.values():
                own = self._verdict(candidate.name)
                if phase == stage and own.worst() <= WORTH_ADDING * self.plan.budget:
                    points[candidate.name] = (-self._alone_cost(candidate), -own.worst())
                    settings[candidate.name] = candidate.stages[stage]
            front = pareto_front(points)
            if len(front) > FRONT:
                front = [front[round(place)] for place in np.linspace(0, len(front) - 1, FRONT)]
            fronts.append([(), *(settings[name] for name in front)])
        found = []
        for chosen in product(*fronts):
            stages = {stage: setting for stage, setting in zip(STAGES, chosen, strict=True) if setting}
            if stages:
                found.append(Candidate(stages))
        return found

    def _predict(self, candidate: Candidate, factors: Mapping[str, float]) -> tuple[float, float]:
        """Predicted relative cost and worst share of a combination: sums over its stages alone."""
        cost, shares = 1.0 / self._verdict(EXACT).speed[0], dict[str, float]()
        for stage, setting in candidate.stages.items():
            part = Candidate({stage: setting})
            own = self._verdict(part.name)
            cost += self._alone_cost(part) - 1.0 / self._verdict(EXACT).speed[0]
            for measure, share in own.shares.items():
                shares[measure] = shares.get(measure, 0.0) + share.value
        return cost, max((factors.get(measure, 1.0) * share for measure, share in shares.items()), default=0.0)

    def _factors(self) -> dict[str, float]:
        """Correction of predicted shares by measure: median of measured / predicted, within a factor of three."""
        ratios: dict[str, list[float]] = {}
        for candidate, phase in self._trials.values():
            own = self._verdict(candidate.name)
            if phase != "together" or own.failed or own.objects < 2:
                continue
            alone = [self._verdict(Candidate({s: o}).name) for s, o in candidate.stages.items()]
            for measure, share in own.shares.items():
                guess = sum(v.shares[measure].value for v in alone if measure in v.shares)
                if guess > 0 and math.isfinite(share.value):
                    ratios.setdefault(measure, []).append(share.upper(self.plan.margin) / guess)
        return {measure: float(np.clip(np.median(found), 1 / 3, 3.0)) for measure, found in ratios.items()}

    # ------------------------------------------------------------------------------------------------ selection

    def _admissible(self, cases: Sequence[Case] | None = None) -> list[Verdict]:
        """Candidates within the budget and faster than the exact savings alone, fastest first.

        Args:
            cases: on which they must be measured; None: all of the search.
        """
        needed = set(self._cases if cases is None else cases)
        exact = self._verdict(EXACT).speed[0]
        verdicts = [self._verdict(name) for name in self._trials if needed <= set(self._measurements.cases(name))]
        within = [
            own for own in verdicts if own.admissible(self.plan.budget, self.plan.margin) and own.speed[0] > exact
        ]
        return sorted(within, key=lambda own: (-own.speed[0], own.name))

    def _best(self) -> Verdict | None:
        return next(iter(self._admissible()), None)

    def _best_as_text(self) -> str:
        best = self._best() if self._cases else None
        return "" if best is None else f"best {best.speed[0]:.2f}x"

    def _validate(self) -> None:
        """Measure the fastest admissible candidates on held-out objects until one is admissible there."""
        queue = iter([own.name for own in self._admissible()])
        while batch := list(islice(queue, FINALISTS)):
            self._tried += batch
            again = bool(self._held_out)
            cases = self._held_out if again else self.plan.held_out
            for case in list(cases):
                late = self._time_is_up(1.0) and len({name for name, _ in self._held_out}) >= FEWEST
                if late and not again:
                    break
                self._measure(batch if again else [*batch, OTHER_SEED, EXACT], case, "held out")
                if not again and self._measurements.usable(case):
                    self._held_out.append(case)
            if self._holding() or self._time_is_up(1.0):
                return

    def _holding(self) -> list[Verdict]:
        """Tried candidates that are admissible on the held-out objects too, fastest first."""
        verdicts = [self._verdict(name, held_out=True) for name in self._tried]
        within = [own for own in verdicts if own.admissible(self.plan.budget, self.plan.margin)]
        return sorted(within, key=lambda own: (-own.speed[0], own.name))

    def _result(self, interrupted: bool) -> SearchResult:
        holding = self._holding()
        # One object has no standard error: a candidate interrupted there does not count as tried.
        tried = [name for name in self._tried if self._verdict(name, held_out=True).objects > 1]
        name = EXACT
        if holding:
            name = holding[0].name
        elif interrupted or not self.plan.held_out:
            # Not measured on held-out objects, as the report states.
            untried = [own.name for own in self._admissible(self._cases[:SECOND_LOOK]) if own.name not in tried]
            name = untried[0] if untried else EXACT
        known = name in tried or (name == EXACT and len({case[0] for case in self._held_out}) > 1)
        return SearchResult(
            chosen=self._trials[name][0] if name in self._trials else Candidate({}),
            searched=self._verdict(name),
            held_out=self._verdict(name, held_out=True) if known else None,
            tried=tuple(self._verdict(own, held_out=True) for own in tried),
            cases=tuple(self._cases),
            held_out_cases=tuple(self._held_out),
            trials=tuple(Trial(c, phase, self._verdict(c.name)) for c, phase in self._trials.values()),
            interrupted=interrupted,
        )
