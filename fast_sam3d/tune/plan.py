"""What a search is asked for, and what it ends with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.judge import Verdict
from fast_sam3d.tune.ledger import Case
from fast_sam3d.tune.space import Candidate, Method


@dataclass(frozen=True)
class Plan:
    """What to search for, on what, for how long.

    Args:
        budget: the largest admissible share of the seed noise, see `fast_sam3d.tune.judge`.
        cases: objects and seeds to search on, as many as the time allows, from the first.
        held_out: those of other objects, for the last word.
        methods: by stage, what may be tried.
        seconds: for everything. trials: at most so many candidates.
        margin: standard errors that are added to a drift before it is compared with the budget.
        seed: of the sampler.
    """

    budget: float
    cases: tuple[Case, ...]
    held_out: tuple[Case, ...]
    methods: Mapping[str, Sequence[Method]]
    seconds: float = math.inf
    trials: int | None = None
    margin: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.budget > 0 and math.isfinite(self.budget)):
            raise FastSam3dError(f"the budget is {self.budget!r}: give a share of the seed noise above 0, such as 0.33")
        if not self.seconds > 0:
            raise FastSam3dError(f"the time is {self.seconds!r} seconds: give some")
        if self.trials is not None and self.trials < 1:
            raise FastSam3dError(f"the number of trials is {self.trials}: give at least 1")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise FastSam3dError(f"the margin is {self.margin!r} standard errors: give a number from 0 up")
        if len({name for name, _ in self.cases}) < 2:
            raise FastSam3dError("tuning needs at least two objects to search on: a spread cannot be told from one")
        if not any(self.methods.values()):
            raise FastSam3dError("there is no method to try: name at least one stage")


@dataclass(frozen=True)
class Trial:
    """One candidate that was measured.

    Args:
        candidate: its settings.
        phase: "ss", "slat" or "mesh" alone, or "together".
        verdict: on the objects of the search.
    """

    candidate: Candidate
    phase: str
    verdict: Verdict


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Args:
        chosen: the fastest admissible candidate; with no stages where there is none, which leaves the exact savings.
        searched: its verdict on the objects of the search. held_out: on the others, None where it was not tried there.
        tried: candidates that were tried on the held-out objects, with their verdicts there, the fastest first.
        cases, held_out_cases: that were measured.
        trials: everything that was measured.
        interrupted: it was stopped before its end.
    """

    chosen: Candidate
    searched: Verdict
    held_out: Verdict | None
    tried: tuple[Verdict, ...]
    cases: tuple[Case, ...]
    held_out_cases: tuple[Case, ...]
    trials: tuple[Trial, ...]
    interrupted: bool


Tell = Callable[[str, float, str], None]
"""Told of progress: what is done now, the seconds spent, the best so far in words."""
