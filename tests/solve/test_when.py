"""Schedules: which steps run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.solve.driver import SolveSeam, SolveStage
from fast_sam3d.solve.history import History
from fast_sam3d.solve.method import StageMethod
from fast_sam3d.solve.predict import Hold
from fast_sam3d.solve.when import WHEN, Always, Stride
from fast_sam3d.solve.where import All


def evaluated(when: Always | Stride, steps: int) -> list[int]:
    """The steps that the driver runs, by counting the calls that reach the network."""
    from fast_sam3d.mini.solver import Euler
    from fast_sam3d.patch import Layer
    from fast_sam3d.report import Report

    solver, report, ran = Euler(), Report(), []
    seam = SolveSeam(solver, SolveStage("ss", "x"))
    seam.add(Layer(report, True, StageMethod(when, All(), {"x": Hold()})))
    times = [i / steps for i in range(steps + 1)]
    for _ in solver.solve_iter(lambda x, t: ran.append(t) or torch.ones(1), torch.zeros(1), times):
        pass
    assert report.solves[0].evaluated == [times.index(t) for t in ran]
    return report.solves[0].evaluated


def test_the_papers_schedule() -> None:
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


def test_always_runs_always() -> None:
    assert evaluated(Always(), 9) == list(range(9))


def test_two_solves_of_one_schedule_share_nothing() -> None:
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
def test_settings_check_themselves(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stride(**settings)  # type: ignore[arg-type]


def test_registry() -> None:
    assert list(WHEN.values()) == [Always, Stride]
    assert list(WHEN) == ["always", "stride"]
