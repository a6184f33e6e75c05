"""What to try next in one stage: optuna's tree-structured Parzen estimator, for speed and closeness at once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.plan import Plan
from fast_sam3d.tune.space import Candidate, ask

STARTUP = 12
"""Trials of a stage before its sampler learns from them."""


class StageSampler:
    """The sampler of one stage. Its choices follow from the seed, the trial's number and the trials before."""

    def __init__(self, optuna: Any, stage: str, plan: Plan) -> None:
        self._optuna = optuna
        self._stage = stage
        self._plan = plan
        self._methods = plan.methods[stage]
        self._study = optuna.create_study(directions=["maximize", "minimize"])
        self._open: list[tuple[Any, Candidate]] = []
        self._known: dict[str, tuple[float, float] | None] = {}
        # Every method as its file has it, in turns with what the sampler chooses.
        self._files = [method.first() for method in self._methods]

    def ask(self, count: int) -> list[Candidate]:
        """So many candidates that were not asked for before; fewer where the sampler finds no more."""
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
            if candidate.name in self._known:  # it is told at once, or with the batch that it is in
                self._tell(trial, candidate)
            else:
                self._known[candidate.name] = None
                self._open.append((trial, candidate))
                batch.append(candidate)
        return batch

    def tell(self, results: Mapping[str, tuple[float, float]]) -> None:
        """Tell the sampler what came of a batch.

        Args:
            results: name to times faster, and the largest share of the noise. What is not finite has failed.
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
    """optuna, quiet.

    Raises:
        FastSam3dError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise FastSam3dError("the search needs optuna: pip install fast-sam3d[tune]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
