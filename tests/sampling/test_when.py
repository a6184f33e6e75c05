"""Schedules: which steps run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.driver import SolveSeam, SolveStage
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.when import WHEN, When
from fast_sam3d.sampling.when.always import Always
from fast_sam3d.sampling.when.budget import Budget
from fast_sam3d.sampling.when.stride import Stride
from fast_sam3d.sampling.where.everywhere import All

Dynamics = Callable[[torch.Tensor, float], torch.Tensor]


def ones(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.ones(1)


def evaluated(when: When, steps: int, dynamics: Dynamics = ones, x: torch.Tensor | None = None) -> list[int]:
    """The steps that the driver runs, by counting the calls that reach the network."""
    from fast_sam3d.model.solver import Euler
    from fast_sam3d.patch import Layer
    from fast_sam3d.telemetry import Report

    solver, report, ran = Euler(), Report(), []
    seam = SolveSeam(solver, SolveStage("ss", "x"))
    seam.add(Layer(report, True, StageMethod(when, All(), {"x": Hold()})))
    times = [i / steps for i in range(steps + 1)]

    def counted(x: torch.Tensor, t: float) -> torch.Tensor:
        ran.append(t)
        return dynamics(x, t)

    for _ in solver.solve_iter(counted, torch.zeros(1) if x is None else x, times):
        pass
    assert report.solves[0].evaluated == [times.index(t) for t in ran]
    return report.solves[0].evaluated


def test_schedule_of_the_paper() -> None:
    assert evaluated(Stride(3, 2), 25) == [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 12, 25, 26, 50])
@pytest.mark.parametrize("stride", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("warmup", [1, 2, 3, 30])
def test_schedule_of_any_length(steps: int, stride: int, warmup: int) -> None:
    ran = evaluated(Stride(stride, warmup), steps)
    assert ran[0] == 0
    assert ran[-1] == steps - 1
    assert set(range(min(warmup, steps))) <= set(ran)
    gaps = [b - a for a, b in pairwise(ran)]
    assert all(gap <= stride for gap in gaps)
    assert all(gap == stride for a, gap in zip(ran, gaps, strict=False) if a >= warmup - 1 and a + stride < steps - 1)
    if stride == 1:
        assert ran == list(range(steps))


def test_always_evaluates_every_step() -> None:
    assert evaluated(Always(), 9) == list(range(9))


def test_solves_of_one_schedule_are_independent() -> None:
    when = Stride(2, 1)
    first, second = when.start([0.0, 0.5, 1.0]), when.start([0.0, 0.5, 1.0])
    assert [first(i, History(1), {}) for i in range(4)] == [second(i, History(1), {}) for i in range(4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride is 0: give a whole number of at least 1"),
        ({"stride": 2.5}, "stride is 2.5"),
        ({"warmup": 0}, "warmup is 0: give a whole number of at least 1"),
        ({"warmup": None}, "warmup is None"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stride(**settings)  # type: ignore[arg-type]


def test_registry_lists_every_schedule() -> None:
    assert WHEN.items() >= {"always": Always, "budget": Budget, "stride": Stride}.items()


# ------------------------------------------------------------------------------------------------- budget


def slow_budget(threshold: float, warmup: int, momentum: float, steps: int, dynamics: Dynamics) -> list[int]:
    """The rule written out over plain lists, with Euler steps and held velocities."""
    x = torch.tensor([1.0, -2.0, 0.5])
    before = x
    runs: list[tuple[torch.Tensor, torch.Tensor]] = []
    ran, spent, kappa = [], 0.0, None
    for step in range(steps):
        run = step in (0, steps - 1) or step < warmup
        if not run and kappa is not None:
            spent += kappa * (x - before).abs().mean().item() / (runs[-1][1].abs().mean().item() + 1e-6)
            run = spent >= threshold
        if run:
            runs.append((x, dynamics(x, step / steps)))
            ran.append(step)
            spent = 0.0
            if len(runs) > 1:
                (x1, v1), (x0, v0) = runs[-1], runs[-2]
                bend = ((v1 - v0).abs().mean() / (x1 - x0).abs().mean()).item()
                kappa = bend if kappa is None else momentum * kappa + (1 - momentum) * bend
        before = x
        x = x + runs[-1][1] / steps
    return ran


def swirl(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.sin(4 * x + 3 * t) + 0.3 * x.roll(1)


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.4, 2.0])
@pytest.mark.parametrize(("warmup", "momentum"), [(2, 0.0), (3, 0.7), (5, 0.9)])
def test_budget_against_a_slow_reference(threshold: float, warmup: int, momentum: float) -> None:
    steps = 25
    when = Budget(threshold, warmup, momentum)
    got = evaluated(when, steps, swirl, torch.tensor([1.0, -2.0, 0.5]))
    assert got == slow_budget(threshold, warmup, momentum, steps, swirl)


def test_smaller_budgets_evaluate_more_steps() -> None:
    x = torch.tensor([1.0, -2.0, 0.5])
    counts = [len(evaluated(Budget(b, 3), 25, swirl, x)) for b in (1e-6, 0.05, 0.3, 1e6)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 25 and counts[-1] == 4


def test_budget_for_constant_and_nan_velocities() -> None:
    for velocity in (0.0, 1.0):
        assert evaluated(Budget(1e-6, 2), 9, lambda x, t, v=velocity: torch.full((1,), v)) == [0, 1, 8]
    assert evaluated(Budget(1.0, 2), 5, lambda x, t: x * float("nan")) == list(range(5))
