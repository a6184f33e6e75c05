"""MeanCache's schedule against every possible one."""

from __future__ import annotations

from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.model.flow import time_grid
from fast_sam3d.tune.mean_cache import nodes, transition_errors
from fast_sam3d.tune.problem import Problem

STEPS = 8
TIMES = time_grid(STEPS, 3.0).tolist()


def problem(*motions: Any) -> Problem:
    """One group for each motion t -> state."""
    stage = SimpleNamespace(bare="x")
    groups = [SimpleNamespace(stage=stage, grid=TIMES, states=[{"x": move(t)} for t in TIMES]) for move in motions]
    return Problem(groups, [torch.ones(1)] * len(groups))  # type: ignore[arg-type]


def bent(t: float) -> Tensor:
    rates = torch.linspace(0.5, 4, 10)
    return torch.sin(5 * rates * t)[None, :, None]


def other(t: float) -> Tensor:
    return torch.exp(torch.linspace(-2, 2, 6) * t)[None, :, None]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("power", [1.0, 4.0])
def test_no_schedule_has_a_lower_sum(count: int, power: float) -> None:
    given = problem(bent, other)
    costs = transition_errors(given) ** power

    def total(path: tuple[int, ...]) -> float:
        return sum(float(costs[a, b]) for a, b in pairwise([*path, STEPS]))

    found = nodes(given, count, power)
    assert len(found) == count and found[0] == 0
    assert total(tuple(found)) == pytest.approx(
        min(total((0, *rest)) for rest in combinations(range(1, STEPS), count - 1))
    )


def test_errors_by_hand() -> None:
    """From step 2 to 5 with the mean over one step or over both."""
    x = [bent(t).double() for t in TIMES]
    h, v = TIMES[5] - TIMES[2], (x[3] - x[2]) / (TIMES[3] - TIMES[2])
    errors = []
    for first in (0, 1):
        span = TIMES[2] - TIMES[first]
        bend = (v - (x[2] - x[first]) / span) / span
        errors.append(float((x[2] + h * v + h * h * bend - x[5]).abs().mean()))
    assert float(transition_errors(problem(bent))[2, 5]) == pytest.approx(min(errors))


def test_a_straight_path_has_no_errors() -> None:
    assert float(transition_errors(problem(lambda t: torch.full((1, 2, 1), 3 * t))).max()) < 1e-5


@pytest.mark.parametrize("count", [0, 9])
def test_impossible_numbers_of_evaluations_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"evaluations is {count}: give 1 to 8"):
        nodes(problem(bent), count)
