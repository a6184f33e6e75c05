"""DPM-Solver++ and UniPC under the driver, against the papers' algorithms on the grid of the evaluated times."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.guide import Guidance
from fast_sam3d.sampling.predict.dpm_solver import DpmSolver
from tests.sampling.reference import GRID, ODES, START, Field, driven, moving

STOCK = Guidance(7.0, ((0, 500),))


def method(corrector: bool, stride: int = 3, late: int = 2) -> dict[str, Any]:
    when = {"name": "guided_stride", "stride": stride, "late": late, "warmup": 1}
    return {"when": when, "predict": {"name": "dpm_solver", "corrector": corrector}}


def slow_unipc(field: Field, times: list[float], guidance: Guidance | None, corrector: bool) -> np.ndarray:
    """Algorithms 5 to 8 of UniPC for predicted data with B(h) = exp(h) - 1 and order 2, the corrected state kept.

    Without the corrector this is algorithm 2 of DPM-Solver++. Guided steps are Euler's and start anew.
    """
    x, known = START, []  # (t, D), newest last
    kept = x
    for i, (a, b) in enumerate(pairwise(times)):
        velocity = field(x, a)
        if a <= 0 or (guidance is not None and guidance.acts_at(a)):
            x, known = x + (b - a) * velocity, []
            continue
        data = x + (1 - a) * velocity
        if corrector and known:
            # x at the last evaluation was kept, so the step to here is taken again with the new D.
            nodes = [*known[-2:], (a, data)]
            x = taken(kept, nodes, times[i - 1], a, order=len(nodes))
        known, kept = [*known, (a, data)][-2:], x
        x = data if b == 1 else taken(x, known, a, b, order=len(known))
    return x


def taken(x: np.ndarray, known: list[tuple[float, np.ndarray]], a: float, b: float, order: int) -> np.ndarray:
    """From a to b, by a multistep formula with differences to D at a; its weights solve a linear system."""
    ratio = {t: math.log(t / (1 - t)) for t in (a, b, *(t for t, _ in known))}
    h = ratio[b] - ratio[a]
    at = dict(known)
    others = [t for t in at if t != a]
    result = (1 - b) / (1 - a) * x + b * (1 - math.exp(-h)) * at[a]
    if not others:
        return result
    r = np.array([(ratio[t] - ratio[a]) / h for t in others])
    slopes = [(at[t] - at[a]) / r_m for t, r_m in zip(others, r, strict=True)]
    size = len(others)
    phi = [(1 - math.exp(-h)) / h]  # integrals of exp(-h (1 - s)) s^k / k! over 0..1
    for k in range(1, size + 1):
        phi.append((1 / math.factorial(k) - phi[-1]) / h)
    wanted = [h * phi[k] * math.factorial(k) / (1 - math.exp(-h)) for k in range(1, size + 1)]
    weights = np.array([0.5]) if size == 1 else np.linalg.solve([r**k for k in range(size)], wanted)
    return result + b * (1 - math.exp(-h)) * sum(w * s for w, s in zip(weights, slopes, strict=True))


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize(("guidance", "late"), [(STOCK, 1), (STOCK, 2), (STOCK, 3), (None, 3)])
def test_solves_equal_the_slow_reference(ode: str, corrector: bool, guidance: Guidance | None, late: int) -> None:
    got, record, _ = driven(method(corrector, late=late), ODES[ode][0], guidance=guidance)
    coarse = [*(GRID[step] for step in record.evaluated), 1.0]
    assert len(coarse) < 20
    np.testing.assert_allclose(got, slow_unipc(ODES[ode][0], coarse, guidance, corrector), rtol=0, atol=1e-10)


@pytest.mark.parametrize("corrector", [False, True])
def test_steps_under_guidance_are_eulers(corrector: bool) -> None:
    field = ODES["forced"][0]
    _, _, got = driven(method(corrector), field, guidance=STOCK)
    _, _, held = driven({**method(corrector), "predict": {"name": "hold"}}, field, guidance=STOCK)
    for step, (a, b) in enumerate(zip(got, held, strict=True)):
        same = np.allclose(a, b, rtol=0, atol=1e-12)
        assert same == (step < 21), "20 is the last step after the first evaluation without guidance"


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("corrector", [False, True])
def test_order_of_convergence(ode: str, corrector: bool) -> None:
    """2, and 3 with the corrector, between two times without guidance."""
    field, solution = ODES[ode]
    start, errors = solution(0.5), []
    for steps in (240, 480):
        times = [0.5 + 0.3 * i / steps for i in range(steps + 1)]
        errors.append(np.abs(driven(method(corrector), field, times, start)[0] - solution(0.8)).max())
    assert np.log2(errors[0] / errors[1]) > (2.9 if corrector else 1.9)


@pytest.mark.parametrize("corrector", [False, True])
def test_data_that_does_not_move_is_reached(corrector: bool) -> None:
    got, _, _ = driven(method(corrector), lambda x, t: (moving(0.3) - x) / (1 - t), guidance=STOCK)
    np.testing.assert_allclose(got, moving(0.3), rtol=0, atol=1e-12)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="corrector is 1: give true or false"):
        DpmSolver(corrector=1)  # type: ignore[arg-type]
