"""Input and result of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.drift import Verdict
from fast_sam3d.tune.measurements import Case
from fast_sam3d.tune.space import Candidate, Method


@dataclass(frozen=True)
class SearchPlan:
    """What to search: budget, objects, methods and limits.

    Args:
        budget: largest admissible share of the seed noise, see `fast_sam3d.tune.drift`.
        cases: objects and seeds to search on, in order, as many as the time allows.
        held_out: other objects and seeds, for validation.
        methods: candidates by stage.
        seconds: limit of the whole search. trials: limit of the number of candidates.
        margin: standard errors added to a drift before comparison with the budget.
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
            raise FastSam3dError(f"the time is {self.seconds!r} seconds: give more than 0")
        if self.trials is not None and self.trials < 1:
            raise FastSam3dError(f"the number of trials is {self.trials}: give at least 1")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise FastSam3dError(f"the margin is {self.margin!r} standard errors: give a number from 0 up")
        if len({name for name, _ in self.cases}) < 2:
            raise FastSam3dError("tuning needs at least two objects: one object has no spread")
        if not any(self.methods.values()):
            raise FastSam3dError("no method to try: name at least one stage")


@dataclass(frozen=True)
class Trial:
    """One measured candidate.

    Args:
        candidate: its settings.
        phase: "ss", "slat" or "mesh" alone, or "together".
        verdict: on the objects of the search.
    """

    candidate: Candidate
    phase: str
    verdict: Verdict


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Args:
        chosen: the fastest admissible candidate; without stages (exact savings only) if there is none.
        searched: its verdict on the objects of the search. held_out: on held-out objects; None: not measured.
        tried: verdicts of the candidates measured on held-out objects.
        cases, held_out_cases: measured ones.
        trials: all measured candidates.
        interrupted: stopped before its end.
    """

    chosen: Candidate
    searched: Verdict
    held_out: Verdict | None
    tried: tuple[Verdict, ...]
    cases: tuple[Case, ...]
    held_out_cases: tuple[Case, ...]
    trials: tuple[Trial, ...]
    interrupted: bool


ProgressCallback = Callable[[str, float, str], None]
"""Receives the phase, the seconds spent, and the best result so far as text."""
