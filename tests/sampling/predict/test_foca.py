"""FoCa against its recursion with velocities kept from step to step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.foca import Foca, recursion
from fast_sam3d.sampling.predict.taylor import Taylor
from fast_sam3d.sampling.step import LeafEvaluation
from tests.sampling.reference import GRID, ODES, PAPER, START, STEPS, Field, driven

UNIFORM = [i / STEPS for i in range(STEPS + 1)]


def forecast(v: np.ndarray, before: np.ndarray, slope: np.ndarray, h: float) -> np.ndarray:
    """Equation 7: BDF2 with the slope at the newest value in place of the unknown one."""
    return 4 / 3 * v - before / 3 + 2 * h / 3 * slope


def slope_at_the_end(new: np.ndarray, v: np.ndarray, before: np.ndarray, h: float) -> np.ndarray:
    """Equation 6."""
    return (3 * new - 4 * v + before) / (2 * h)


def slow_foca(field: Field, evaluated: list[int], times: list[float]) -> np.ndarray:
    """Equations 6 to 8 where the steps are equal; elsewhere with slopes in t."""
    x, full, newest = START, [], []
    equal = np.ptp(np.diff(times)) < 1e-12
    for step, (a, b) in enumerate(pairwise(times)):
        if step in evaluated:
            v = field(x, a)
            full.append((a, v))
        elif len(newest) < 2:
            v = newest[-1][1]
        else:
            (t1, before), (t0, last) = newest[-2:]
            reliable = 0.0
            if len(full) > 1:
                reliable = (full[-1][1] - full[-2][1]) / (full[-1][0] - full[-2][0])
            local = (last - before) / (t0 - t1)
            if equal:
                new = forecast(last, before, local, a - t0)
                local = slope_at_the_end(new, last, before, a - t0)
            v = last + (a - t0) / 2 * (reliable + local)
        newest.append((a, v))
        x = x + (b - a) * v
    return x


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("times", [GRID, UNIFORM], ids=["ss", "slat"])
@pytest.mark.parametrize(("stride", "warmup"), [(3, 2), (5, 1), (1, 1)])
def test_solves_equal_the_slow_reference(ode: str, times: list[float], stride: int, warmup: int) -> None:
    method = {"when": {"name": "stride", "stride": stride, "warmup": warmup}, "predict": {"name": "foca"}}
    got, record, _ = driven(method, ODES[ode][0], times)
    assert record.fallbacks == 0 and (record.evaluated == PAPER) == ((stride, warmup) == (3, 2))
    np.testing.assert_allclose(got, slow_foca(ODES[ode][0], record.evaluated, times), rtol=0, atol=1e-12)


def test_predictions_converge_to_the_solution() -> None:
    field, solution = ODES["forced"]
    errors = []
    for steps in (25, 200):
        times = [i / steps for i in range(steps + 1)]
        method = {"when": {"name": "stride", "stride": 3, "warmup": 2}, "predict": {"name": "foca"}}
        errors.append(float(np.abs(driven(method, field, times)[0] - solution(1.0)).max()))
    assert errors[1] < errors[0] / 4


def test_what_was_wrong_before_an_evaluation_halves_from_step_to_step() -> None:
    """A velocity that rises by 1 a step and jumps by 8 at the evaluation in step 4, where 3 were predicted before."""
    times = [float(i) for i in range(12)]
    known = {0: 0.0, 1: 1.0, 4: 12.0}

    def predicted(t: float) -> float:
        return sum(w * known[e] for w, e in zip(recursion([0.0, 1.0, 4.0], times, t), known, strict=True))

    line = (12 - 1) / 3
    local = 12 - 3  # from the prediction in step 3 to the evaluation in step 4
    expected = 12.0
    for t in range(5, 9):
        local = (line + local) / 2
        expected += local
        assert predicted(float(t)) == pytest.approx(expected)


def test_without_a_grid_the_velocity_is_extrapolated_linearly() -> None:
    past = History(3, [LeafEvaluation(t, torch.zeros(4), torch.randn(4)) for t in (0.5, 0.3, 0.2)])
    torch.testing.assert_close(Foca()(past, 0.9, torch.zeros(4)), Taylor(1)(past, 0.9, torch.zeros(4)))


def test_weights_sum_to_one() -> None:
    for n in range(1, 8):
        evaluated = [GRID[i] for i in PAPER[:n]]
        assert sum(recursion(evaluated, GRID, GRID[PAPER[n - 1] + 1])) == pytest.approx(1)
