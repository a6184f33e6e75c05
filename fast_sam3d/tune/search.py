"""The search: each stage alone, then together, then on objects that it has not seen.

Why so. A candidate for the whole has a dozen settings, and one run of one object takes seconds to a minute, so that a
search of everything at once sees too little of each. But seconds add up over the stages exactly, and drifts nearly: so
each stage is searched alone, with the others as they are, and what was found is put together by adding. The sums are
no evidence, only a guess of which combinations are worth measuring: each is measured as it would be used, and what the
guess missed by corrects the next ones. A greedy order (the structure first, then the latent given it) would let the
first stage use up the budget, whether or not it has the most to save.

Objects come in steps: one for every candidate, three for those that are not far beyond the budget, all of them for the
combinations, and at last the fastest admissible ones on held-out objects, where the same budget must hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, product

import numpy as np

from fast_sam3d.bench.suite import OTHER_SEED
from fast_sam3d.bench.summary import pareto_front
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.judge import Verdict
from fast_sam3d.tune.ledger import Case, Ledger
from fast_sam3d.tune.plan import Found, Plan, Tell, Trial
from fast_sam3d.tune.sampler import StageSampler, import_optuna
from fast_sam3d.tune.space import EXACT, STAGES, Candidate

ORDER = ("ss", "slat", "mesh", "ss", "slat")
"""Whose turn it is: the mesh decoder has few settings."""
BASE_SHARE, ALONE_SHARE, AGAIN_SHARE, TOGETHER_SHARE = 0.25, 0.60, 0.70, 0.85
"""Of the time: until when the unaccelerated runs, the stages alone, the same after the first combinations, and the
combinations may be measured."""
ALONE_TRIALS = 0.7
"""Of the trials, where they are limited: the rest is for combinations."""
BATCH = 5
"""Candidates that take turns with one unaccelerated run."""
FIRST_LOOK, SECOND_LOOK = 1, 3
"""Cases after which candidates are dropped."""
HOPELESS = 2.0
"""Times the budget: a candidate whose first look is beyond that is dropped."""
WORTH_ADDING = 1.3
"""Times the budget: a stage's setting that drifts more alone is not put together with others."""
FRONT = 8
"""Settings of one stage that are put together with those of the others."""
FINALISTS = 3
"""Candidates that are tried on held-out objects at once."""
FEWEST = 3
"""Objects that are measured, whatever the time, if there are so many."""
GIVE_UP = 40
"""Candidates of a stage after which it is left, if none came near the budget."""
TOUCHES = {"ss": ("ss",), "slat": ("slat",), "mesh": ("slat", "mesh", "gaussian")}
"""Stages whose seconds the settings of one change: voxels may be merged before the latent is sampled."""
NEGLIGIBLE = 0.03
"""Share of the seconds below which a stage is left as it is."""


class Search:
    """One search; see the module.

    Args:
        plan: what for.
        ledger: measures and keeps.
        tell: see `Tell`.
    """

    def __init__(self, plan: Plan, ledger: Ledger, tell: Tell = lambda phase, spent, note: None) -> None:
        self.plan = plan
        self._ledger = ledger
        self._tell = tell
        self._cases: list[Case] = []
        self._held_out: list[Case] = []
        self._trials: dict[str, tuple[Candidate, str]] = {}
        self._tried: list[str] = []

    def run(self) -> Found:
        """Search until the time or the trials are used up, or until nothing is left to try.

        A KeyboardInterrupt ends it early, with what is known; before the unaccelerated runs are known it goes on up.

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
            # What is left of the time goes to both, in turns; what was found alone is put together in any case.
            while samplers and not self._time_is_up(AGAIN_SHARE) and self._trials_left() > BATCH:
                self._alone(samplers, AGAIN_SHARE, 1.0, rounds=1)
                self._together()
            self._validate()
        except KeyboardInterrupt:
            interrupted = True
        return self._found(interrupted)

    # --------------------------------------------------------------------------------------------- measuring

    def _measure(self, methods: Sequence[str], case: Case, phase: str) -> None:
        self._ledger.measure(methods, case)
        self._tell(phase, self._ledger.spent, self._best_in_words())

    def _verdict(self, name: str, held_out: bool = False) -> Verdict:
        return self._ledger.verdict(name, self._held_out if held_out else self._cases)

    def _base(self) -> None:
        for case in self.plan.cases:
            late = self._ledger.spent > BASE_SHARE * self.plan.seconds
            if late and len({name for name, _ in self._cases}) >= FEWEST:
                break
            self._measure([OTHER_SEED, EXACT], case, "unaccelerated")
            if self._ledger.usable(case):
                self._cases.append(case)
        if len({name for name, _ in self._cases}) < 2:
            raise FastSam3dError(
                f"only {len(self._cases)} of {len(self.plan.cases)} unaccelerated runs came to an end: tuning needs two"
                " objects that the pipeline can reconstruct; the log says what failed"
            )

    def _time_is_up(self, share: float) -> bool:
        return self._ledger.spent >= share * self.plan.seconds

    def _trials_left(self, share: float = 1.0) -> int:
        if self.plan.trials is None:
            return BATCH + 1
        return max(math.ceil(share * self.plan.trials) - len(self._trials), 0)

    def _stepwise(
        self, batch: Sequence[Candidate], phase: str, cases: Sequence[Case], drop: Callable[[str], bool]
    ) -> None:
        """Measure candidates in turns on the first cases, and those that are not dropped on the next."""
        for candidate in batch:
            self._trials.setdefault(candidate.name, (candidate, phase))
        left = [candidate.name for candidate in batch]
        for number, case in enumerate(cases):
            if number in (FIRST_LOOK, SECOND_LOOK):
                left = [name for name in left if not drop(name)]
            if not left:
                break
            self._measure(left, case, phase)

    # ------------------------------------------------------------------------------------------- stage by stage

    def _alone(self, samplers: dict[str, StageSampler], share: float, trials: float, rounds: float = math.inf) -> None:
        """Batches of the stages in turns, until a share of the time or of the trials is used up; `rounds` at most."""
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
                if not batch or self._hopeless(stage):
                    del samplers[stage]
                    continue
                self._stepwise(
                    batch, stage, self._cases[:SECOND_LOOK],
                    lambda name: self._verdict(name).worst() > HOPELESS * self.plan.budget,
                )  # fmt: skip
                sampler.tell({c.name: (1.0 / self._alone_cost(c), self._verdict(c.name).worst()) for c in batch})

    def _hopeless(self, stage: str) -> bool:
        """Whether many candidates of a stage were tried, and none was near the budget."""
        own = [self._verdict(candidate.name) for candidate, phase in self._trials.values() if phase == stage]
        return len(own) >= GIVE_UP and all(v.worst() > WORTH_ADDING * self.plan.budget for v in own)

    def _alone_cost(self, candidate: Candidate) -> float:
        """Cost of a candidate that changes one stage, in parts of the unaccelerated one.

        The seconds of that stage alone say it best: those of the others are the same but for chance.
        """
        own = self._verdict(candidate.name)
        if self._ledger.cost != "seconds":
            return 1.0 / own.speed[0]
        (stage,) = candidate.stages
        saved = self._ledger.saved(candidate.name, EXACT, TOUCHES[stage], self._cases)
        return 1.0 / self._verdict(EXACT).speed[0] - saved

    def _worthwhile(self) -> list[str]:
        """Stages with methods to try that take a part of the seconds worth saving."""
        cost, found = self._ledger.cost, []
        whole = sum(self._seconds(stage) for stage in STAGES)
        for stage in STAGES:
            if not self.plan.methods.get(stage):
                continue
            if cost == "calls" and stage == "mesh":  # it makes no call of a sampler's network
                continue
            if cost in ("seconds", "cpu_seconds") and self._seconds(stage) < NEGLIGIBLE * whole:
                continue
            found.append(stage)
        return found

    def _seconds(self, stage: str) -> float:
        seconds = self._ledger.stage_seconds(EXACT, stage, self._cases)
        return seconds if math.isfinite(seconds) else 0.0

    # ------------------------------------------------------------------------------------------------ together

    def _together(self) -> None:
        combinations = self._combinations()
        while combinations and not self._time_is_up(TOGETHER_SHARE):
            best = self._best()
            limit = math.inf if best is None else 1.0 / best.speed[0]
            factors = self._factors()
            guesses = []
            for candidate in combinations:
                if self._ledger.cases(candidate.name) and self._measured_enough(candidate.name):
                    continue
                cost, worst = self._guess(candidate, factors)
                if cost < limit:
                    guesses.append((cost, worst, candidate))
            within = sorted(
                (g for g in guesses if g[1] <= self.plan.budget), key=lambda guess: (guess[0], guess[2].name)
            )
            if not within:  # the guess may be wrong: the most careful ones, however far off where nothing is known yet
                near = math.inf if best is None else WORTH_ADDING * self.plan.budget
                careful = (guess for guess in guesses if guess[1] <= near)
                within = sorted(careful, key=lambda guess: (guess[1], guess[2].name))
            batch: list[Candidate] = []
            left = self._trials_left()
            for _, _, candidate in within:
                known = candidate.name in self._trials  # it costs no further trial
                if len(batch) < BATCH and (known or left > 0):
                    batch.append(candidate)
                    left -= not known
            if not batch:
                return
            self._stepwise(batch, "together", self._cases, self._beaten)

    def _measured_enough(self, name: str) -> bool:
        """On all cases, or dropped before."""
        return len(self._ledger.cases(name)) >= len(self._cases) or self._beaten(name)

    def _beaten(self, name: str) -> bool:
        """Whether a candidate is over the budget, or slower than the best, by more than chance."""
        own, best = self._verdict(name), self._best()
        if own.worst() > HOPELESS * self.plan.budget:
            return True
        if own.objects > FIRST_LOOK and any(s.value - s.error > self.plan.budget for s in own.shares.values()):
            return True
        return best is not None and best.name != name and own.speed[0] + own.speed[1] < best.speed[0]

    def _combinations(self) -> list[Candidate]:
        """The best settings of each stage, with the best of the others or with the others as they are."""
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

    def _guess(self, candidate: Candidate, factors: Mapping[str, float]) -> tuple[float, float]:
        """Cost in parts of the unaccelerated one, and the worst share, by adding what the stages did alone."""
        cost, shares = 1.0 / self._verdict(EXACT).speed[0], dict[str, float]()
        for stage, setting in candidate.stages.items():
            part = Candidate({stage: setting})
            own = self._verdict(part.name)
            cost += self._alone_cost(part) - 1.0 / self._verdict(EXACT).speed[0]
            for measure, share in own.shares.items():
                shares[measure] = shares.get(measure, 0.0) + share.value
        return cost, max((factors.get(measure, 1.0) * share for measure, share in shares.items()), default=0.0)

    def _factors(self) -> dict[str, float]:
        """By measure, what the guesses of shares were to be multiplied with: the median, within a factor of three."""
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

    # ------------------------------------------------------------------------------------------------ the choice

    def _admissible(self, cases: Sequence[Case] | None = None) -> list[Verdict]:
        """Candidates within the budget that are faster than the exact savings alone, the fastest first.

        Args:
            cases: on which they must have been measured; None: all of the search.
        """
        needed = set(self._cases if cases is None else cases)
        exact = self._verdict(EXACT).speed[0]
        verdicts = [self._verdict(name) for name in self._trials if needed <= set(self._ledger.cases(name))]
        within = [
            own for own in verdicts if own.admissible(self.plan.budget, self.plan.margin) and own.speed[0] > exact
        ]
        return sorted(within, key=lambda own: (-own.speed[0], own.name))

    def _best(self) -> Verdict | None:
        return next(iter(self._admissible()), None)

    def _best_in_words(self) -> str:
        best = self._best() if self._cases else None
        return "" if best is None else f"best {best.speed[0]:.2f}x"

    def _validate(self) -> None:
        """The fastest admissible candidates on the held-out objects, until one holds there."""
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
                if not again and self._ledger.usable(case):
                    self._held_out.append(case)
            if self._holding() or self._time_is_up(1.0):
                return

    def _holding(self) -> list[Verdict]:
        """Of the tried ones, those that are admissible on the held-out objects too, the fastest there first."""
        verdicts = [self._verdict(name, held_out=True) for name in self._tried]
        within = [own for own in verdicts if own.admissible(self.plan.budget, self.plan.margin)]
        return sorted(within, key=lambda own: (-own.speed[0], own.name))

    def _found(self, interrupted: bool) -> Found:
        holding = self._holding()
        # One object tells no spread: a candidate that was stopped there was not tried.
        tried = [name for name in self._tried if self._verdict(name, held_out=True).objects > 1]
        name = EXACT
        if holding:
            name = holding[0].name
        elif interrupted or not self.plan.held_out:
            # Not tried on held-out objects: the evidence says so.
            untried = [own.name for own in self._admissible(self._cases[:SECOND_LOOK]) if own.name not in tried]
            name = untried[0] if untried else EXACT
        known = name in tried or (name == EXACT and len({case[0] for case in self._held_out}) > 1)
        return Found(
            chosen=self._trials[name][0] if name in self._trials else Candidate({}),
            searched=self._verdict(name),
            held_out=self._verdict(name, held_out=True) if known else None,
            tried=tuple(self._verdict(own, held_out=True) for own in tried),
            cases=tuple(self._cases),
            held_out_cases=tuple(self._held_out),
            trials=tuple(Trial(c, phase, self._verdict(c.name)) for c, phase in self._trials.values()),
            interrupted=interrupted,
        )
