"""Proposals for one stage by optuna's tree-structured Parzen estimator, with speed and drift as objectives."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.plan import SearchPlan
from fast_sam3d.tune.space import Candidate, ask

STARTUP = 12
"""Random trials before the sampler uses a model."""


class StageSampler:
    """Sampler of one stage, deterministic in the seed, the trial number and previous trials."""

    def __init__(self, optuna: Any, stage: str, plan: SearchPlan) -> None:
        self._optuna = optuna
        self._stage = stage
        self._plan = plan
        self._methods = plan.methods[stage]
        self._study = optuna.create_study(directions=["maximize", "minimize"])
        self._open: list[tuple[Any, Candidate]] = []
        self._known: dict[str, tuple[float, float] | None] = {}
        # The settings of each method's file, alternating with those of the sampler.
        self._files = [method.first() for method in self._methods]

    def ask(self, count: int) -> list[Candidate]:
        """`count` new candidates; fewer if the sampler finds no more."""
        batch: list[Candidate] = []
        for _ in range(5 * count):
            if len(batch) == count:
                break
            number = len(self._study.trials)
            seed = zlib.crc32(f"{self._plan.seed} {self._stage} {number}".encode())
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            if self._files and number % 2 == 0:
                self._study.enqueue_trial(self._files.pop(0))
            trial = self._study.ask()
            candidate = Candidate({self._stage: ask(trial, self._methods)})
            if candidate.name in self._known:  # reported now, or with its batch
                self._tell(trial, candidate)
            else:
                self._known[candidate.name] = None
                self._open.append((trial, candidate))
                batch.append(candidate)
        return batch

    def tell(self, results: Mapping[str, tuple[float, float]]) -> None:
        """Report the results of a batch to the sampler.

        Args:
            results: name to speed-up and largest share of the noise; values that are not finite have failed.
        """
        for name, result in results.items():
            self._known[name] = result
        for trial, candidate in self._open:
            self._tell(trial, candidate)
        self._open.clear()

    def _tell(self, trial: Any, candidate: Candidate) -> None:
        result = self._known[candidate.name]
        if result is None or not all(map(math.isfinite, result)):
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            return
        trial.set_constraint("budget", result[1] - self._plan.budget)
        self._study.tell(trial, list(result))


def import_optuna() -> Any:
    """The optuna package, with warnings only.

    Raises:
        FastSam3dError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise FastSam3dError("the search needs optuna: pip install fast-sam3d[tune]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
