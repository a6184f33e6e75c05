"""Multistep solvers under the driver against slow ones on the grid of the evaluated times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.adams_bashforth import AdamsBashforth
from fast_sam3d.sampling.predict.deis import Deis, weighted_power
from fast_sam3d.sampling.step import LeafEvaluation
from tests.sampling.reference import (
    GRID,
    ODES,
    PAPER,
    START,
    STEPS,
    Field,
    denoising,
    driven,
    integral,
    lagrange,
    moving,
)


def method(name: str, order: int, stride: int = 3) -> dict[str, object]:
    return {"when": {"name": "stride", "stride": stride, "warmup": 2}, "predict": {"name": name, "order": order}}


def slow_adams_bashforth(field: Field, times: list[float], order: int) -> np.ndarray:
    """Each step by the integrals of Lagrange's polynomials over it."""
    x, past = START, []
    for a, b in pairwise(times):
        past = [(a, field(x, a)), *past][:order]
        nodes = [t for t, _ in past]
        x = x + sum(
            integral(lambda s, i=i, nodes=nodes: lagrange(nodes, i, s), a, b) * v for i, (_, v) in enumerate(past)
        )
    return x


def slow_deis(field: Field, times: list[float], order: int) -> np.ndarray:
    """Each step by variation of constants: x / (1 - t) grows by the integral of P(s) / (1 - s)^2."""
    x, past = START, []
    for a, b in pairwise(times):
        past = [(a, x + (1 - a) * field(x, a)), *past][:order]
        nodes = [t for t, _ in past]
        if b == 1:
            return sum(lagrange(nodes, i, 1.0) * d for i, (_, d) in enumerate(past))
        grown = sum(
            integral(lambda s, i=i, nodes=nodes: lagrange(nodes, i, s) / (1 - s) ** 2, a, b) * d
            for i, (_, d) in enumerate(past)
        )
        x = (1 - b) * (x / (1 - a) + grown)
    return x


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 3])
def test_adams_bashforth_equals_the_slow_reference(ode: str, order: int, stride: int) -> None:
    got, record, _ = driven(method("adams_bashforth", order, stride), ODES[ode][0])
    assert record.evaluated == (PAPER if stride == 3 else list(range(STEPS)))
    coarse = [GRID[i] for i in record.evaluated] + [1.0]
    np.testing.assert_allclose(got, slow_adams_bashforth(ODES[ode][0], coarse, order), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_equals_the_slow_reference(ode: str, order: int) -> None:
    got, record, _ = driven(method("deis", order), ODES[ode][0])
    coarse = [GRID[i] for i in record.evaluated] + [1.0]
    np.testing.assert_allclose(got, slow_deis(ODES[ode][0], coarse, order), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["adams_bashforth", "deis"])
def test_order_one_is_euler_on_the_evaluated_grid(name: str) -> None:
    field, _ = ODES["forced"]
    got, record, _ = driven(method(name, 1), field)
    x, coarse = START, [GRID[i] for i in record.evaluated] + [1.0]
    for a, b in pairwise(coarse):
        x = x + (b - a) * field(x, a)
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "highest"), [("adams_bashforth", 4), ("deis", 3)])
@pytest.mark.parametrize("ode", ODES)
def test_order_of_convergence(name: str, highest: int, ode: str) -> None:
    """On increasingly fine uniform grids, with the network at every third step, up to a middle time."""
    field, solution = ODES[ode]
    for order in range(1, highest + 1):
        errors = []
        for steps in (60, 120, 240):
            times = [0.8 * i / steps for i in range(steps + 1)]
            got, record, _ = driven(
                {
                    "when": {
                        "name": "stride",
                        "stride": 3,
                        "warmup": 9,
                    },  # the low order of the first steps must not dominate
                    "predict": {"name": name, "order": order},
                },
                field,
                times,
            )
            assert len(record.evaluated) < steps / 2
            errors.append(np.abs(got - solution(0.8)).max())
        slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
        assert slopes[-1] > min(order, 2) - 0.1, (order, slopes)  # the first step is of order 1, its error of 2


@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_polynomial_velocity_is_integrated_exactly(power: int) -> None:
    """From the evaluation on from which the polynomial is known."""
    rate = np.array([1.0, -2.0, 0.5])

    def field(x: np.ndarray, t: float) -> np.ndarray:
        return rate * t**power

    _, record, states = driven(method("adams_bashforth", power + 1), field)
    first = record.evaluated[power]
    moved = states[-1] - states[first - 1] if first else states[-1] - START
    exact = rate * (1 - GRID[first] ** (power + 1)) / (power + 1)
    np.testing.assert_allclose(moved, exact, rtol=0, atol=1e-12)


def test_deis_is_exact_for_data_moving_along_a_parabola() -> None:
    got, _, _ = driven(method("deis", 3), denoising)
    np.testing.assert_allclose(got, moving(GRID[24]) + (1 - GRID[24]) * slope(), rtol=0, atol=2e-3)
    constant, _, _ = driven(method("deis", 1), lambda x, t: (moving(0) - x) / (1 - t))
    np.testing.assert_allclose(constant, moving(0), rtol=0, atol=1e-12)


def slope() -> np.ndarray:
    return (moving(1.0) - moving(GRID[24])) / (1 - GRID[24])


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (0.2, 0.5), (0.5, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_weighted_means_by_hand(start: float, end: float, power: int) -> None:
    got = weighted_power(start, end, 0.1, power)
    if end == 1:
        assert got == pytest.approx(0.9**power)  # all the weight is at the end
        return
    total = integral(lambda s: (1 - s) ** -2, start, end)
    expected = integral(lambda s: (s - 0.1) ** power / (1 - s) ** 2, start, end) / total
    assert got == pytest.approx(expected, rel=1e-9)


def test_velocity_at_a_time_is_the_limit_of_a_short_step() -> None:
    past: History[LeafEvaluation] = History(3)
    for t, v in [(0.1, 1.0), (0.3, 2.0), (0.4, 4.0)]:
        past.push(LeafEvaluation(t, torch.full((1,), 2 * t, dtype=torch.float64), torch.full((1,), v).double()))
    x = torch.tensor([1.5], dtype=torch.float64)
    for predictor in (AdamsBashforth(3), Deis(3)):
        torch.testing.assert_close(predictor(past, 0.5, x), predictor.over(past, 0.5, 0.5 + 1e-7, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "order"), [(AdamsBashforth, 0), (AdamsBashforth, 5), (Deis, 4), (Deis, 1.0)])
def test_invalid_settings_are_refused(kind: type, order: object) -> None:
    with pytest.raises(ConfigError, match=f"order is {order}: give a whole number from 1 to"):
        kind(order=order)
