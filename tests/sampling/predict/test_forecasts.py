"""Predictors of published caches, each against its formula written out slowly, on equations with known solutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d.config.compose import compose
from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.chebyshev import Chebyshev
from fast_sam3d.sampling.predict.dmd import DynamicModes, equally_spaced, place
from fast_sam3d.sampling.predict.hermite import Hermite
from fast_sam3d.sampling.predict.mean_flow import MeanFlow
from fast_sam3d.sampling.predict.taylor import Taylor
from fast_sam3d.sampling.step import LeafEvaluation
from tests.sampling.reference import GRID, ODES, PAPER, STEPS, Past, driven, slow

UNIFORM = [i / STEPS for i in range(STEPS + 1)]
STRIDE = {"name": "stride", "stride": 3, "warmup": 2}


def line(past: Past, t: float) -> np.ndarray:
    if len(past) == 1:
        return past[0][2]
    (t0, _, v0), (t1, _, v1) = past[:2]
    return v0 + (t - t0) * (v0 - v1) / (t0 - t1)


def slow_taylor(past: Past, a: float, b: float, x: np.ndarray) -> np.ndarray:
    """The parabola through three points, by solving for its coefficients."""
    known = past[:3]
    rows = np.array([[t**p for p in range(len(known))] for t, _, _ in known])
    coefficients = np.linalg.solve(rows, np.array([v for _, _, v in known]))
    return sum(a**p * c for p, c in enumerate(coefficients))


def slow_hermite(past: Past, a: float, b: float, x: np.ndarray, order: int = 2, stride: int = 3) -> np.ndarray:
    """In steps, with derivatives per step from divided differences; H_1 and H_2 written out."""
    sigma, (t0, _, v0) = 0.5, past[0]
    if len(past) == 1:
        return v0
    t1, _, v1 = past[1]
    step = (t0 - t1) / stride
    k = (a - t0) / step
    first = (v0 - v1) / (t0 - t1) * step
    result = v0 + first * sigma * (2 * sigma * k)
    if len(past) > 2 and order > 1:
        t2, _, v2 = past[2]
        second = 2 * ((v0 - v1) / (t0 - t1) - (v1 - v2) / (t1 - t2)) / (t0 - t2) * step**2
        result = result + second / 2 * sigma**2 * (4 * (sigma * k) ** 2 - 2)
    return result


STEP_AT = {t: i for times in (GRID, UNIFORM) for i, t in enumerate(times)}


def slow_modes(past: Past, a: float, b: float, x: np.ndarray, order: int = 2, stride: int = 3) -> np.ndarray:
    """Exact DMD with the pseudo-inverse in full, where four or more of the last six are equally many steps apart."""
    steps = [STEP_AT[t] for t, _, _ in past[:6]]
    count = next((n for n in range(len(steps), 1, -1) if len({*np.diff(steps[:n])}) == 1), 1)
    if count < 4:
        return slow_hermite(past, a, b, x, order, stride)
    columns = np.array([v for _, _, v in past[count - 1 :: -1]]).T
    u, s, vh = np.linalg.svd(columns[:, :-1], full_matrices=False)
    rank = int((s > 1e-4 * s[0]).sum())
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    operator = u @ (u.T @ columns[:, 1:] @ vh.T @ np.diag(1 / s)) @ u.T
    values, vectors = np.linalg.eig(operator)
    keep = np.argsort(-abs(values))[:rank]
    amplitudes = np.linalg.pinv(vectors[:, keep]) @ (u @ u.T @ columns[:, -1])
    power = (STEP_AT[a] - steps[0]) / (steps[0] - steps[1])
    outside = columns[:, -1] - u @ u.T @ columns[:, -1]
    return (vectors[:, keep] @ (amplitudes * values[keep].astype(complex) ** power)).real + outside


def slow_mean_flow(past: Past, a: float, b: float, x: np.ndarray) -> np.ndarray:
    """The displacement from the last evaluation to the end of the step, less that to its start."""
    if len(past) == 1:
        return past[0][2]
    e, at_e, v = past[0]
    w, at_w, _ = past[min(2, len(past) - 1)]
    jvp = (v - (at_e - at_w) / (e - w)) / (e - w)

    def moved(s: float) -> np.ndarray:
        return (s - e) * (v + (s - e) * jvp)

    return (moved(b) - moved(a)) / (b - a)


def slow_chebyshev(past: Past, a: float, b: float, x: np.ndarray) -> np.ndarray:
    terms = min(4, len(past))
    rows = np.polynomial.chebyshev.chebvander([2 * t - 1 for t, _, _ in past], terms - 1)
    # Ridge regression as least squares with one more row per term.
    wide = np.vstack([rows, math.sqrt(0.1) * np.eye(terms)])
    target = np.vstack([np.array([v for _, _, v in past]), np.zeros((terms, 3))])
    coefficients = np.linalg.lstsq(wide, target, rcond=None)[0]
    fitted = np.polynomial.chebyshev.chebval(2 * a - 1, coefficients)
    return 0.5 * fitted + 0.5 * line(past, a)


def slow_offset(past: Past, a: float, b: float, x: np.ndarray) -> np.ndarray:
    return x + past[0][2] - past[0][1]


CASES: dict[str, tuple[dict[str, Any], Callable[..., np.ndarray]]] = {
    "hold": ({"name": "hold"}, lambda past, a, b, x: past[0][2]),
    "line": ({"name": "taylor", "order": 1}, lambda past, a, b, x: line(past, a)),
    "taylorseer": ({"name": "taylor", "order": 2}, slow_taylor),
    "hicache": ({"name": "hermite"}, slow_hermite),
    "dmd": ({"name": "dmd"}, slow_modes),
    "meancache": ({"name": "mean_flow"}, slow_mean_flow),
    "spectrum": ({"name": "chebyshev"}, slow_chebyshev),
    "easycache": ({"name": "offset"}, slow_offset),
}


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("times", [GRID, UNIFORM], ids=["ss", "slat"])
def test_solves_equal_the_slow_reference(ode: str, case: str, times: list[float]) -> None:
    settings, predict = CASES[case]
    got, record, _ = driven({"when": STRIDE, "predict": settings}, ODES[ode][0], times)
    assert record.evaluated == PAPER and record.fallbacks == 0
    np.testing.assert_allclose(got, slow(ODES[ode][0], PAPER, predict, times), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_every_predictor_converges_to_the_solution(case: str) -> None:
    field, solution = ODES["forced"]
    errors = []
    for steps in (25, 200):
        times = [i / steps for i in range(steps + 1)]
        got, _, _ = driven({"when": STRIDE, "predict": CASES[case][0]}, field, times)
        errors.append(float(np.abs(got - solution(1.0)).max()))
    # The ridge pulls towards zero, the less the more evaluations there are.
    assert errors[1] < errors[0] / (2 if case == "spectrum" else 4)


def history(times: list[float], values: list[Any], states: list[Any] | None = None) -> History[LeafEvaluation]:
    """Oldest first."""
    past: History[LeafEvaluation] = History(len(times))
    for i, (t, v) in enumerate(zip(times, values, strict=True)):
        x = torch.zeros(()) if states is None else torch.as_tensor(states[i])
        past.push(LeafEvaluation(t, x, torch.as_tensor(v)))
    return past


NOTHING = torch.zeros(())


def test_hermite_against_taylor_for_two_values_of_sigma() -> None:
    past = history([0.1, 0.4], [torch.tensor([1.0]), torch.tensor([2.0])])
    full = Taylor(1)(past, 0.5, NOTHING) - 2
    assert (Hermite(1, sigma=0.5**0.5)(past, 0.5, NOTHING) - 2) == pytest.approx(full)
    assert (Hermite(1, sigma=0.5)(past, 0.5, NOTHING) - 2) == pytest.approx(full / 2)


def test_modes_extrapolate_sums_of_exponentials_exactly() -> None:
    """A growing, a decaying and a turning one; taken apart from five snapshots, carried on between them and past."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(4, 50))

    def value(t: float) -> torch.Tensor:
        turning = math.cos(5 * t) * vectors[2] + math.sin(5 * t) * vectors[3]
        return torch.as_tensor(math.exp(0.4 * t) * vectors[0] + math.exp(-2 * t) * vectors[1] + turning)

    times = [0.2, 0.3, 0.4, 0.5, 0.6]
    past = history(times, [value(t) for t in times])
    for t in (0.6333, 0.7, 0.85):
        torch.testing.assert_close(DynamicModes()(past, t, NOTHING), value(t), rtol=1e-6, atol=1e-6)


def test_component_outside_the_modes_is_held() -> None:
    """A great part that decays, and a small one that a coarse cutoff drops."""

    def value(t: float, small: float = 1.0) -> torch.Tensor:
        return torch.tensor([100 * math.exp(-t), 0.0, small], dtype=torch.float64)

    times = [0.1, 0.2, 0.3, 0.4]
    past = history(times, [value(t, 1.0 + (-1) ** i) for i, t in enumerate(times)])
    got = DynamicModes(cutoff=0.3)(past, 0.5, NOTHING)
    torch.testing.assert_close(got, value(0.5, 0.0), rtol=0.02, atol=0.3)
    past = history(times, [value(t, 1.0 + (-1) ** (i + 1)) for i, t in enumerate(times)])
    got = DynamicModes(cutoff=0.3)(past, 0.5, NOTHING)
    torch.testing.assert_close(got, value(0.5, 2.0), rtol=0.02, atol=0.3)


def test_modes_require_equal_intervals() -> None:
    assert equally_spaced([]) == 0
    assert equally_spaced([1.0]) == 1
    assert equally_spaced([1.0, 0.9]) == 2
    assert equally_spaced([1.0, 0.9, 0.8, 0.7, 0.55]) == 4
    assert equally_spaced([GRID[i] for i in (22, 19, 16, 13)]) == 2
    assert equally_spaced([place(GRID[i], GRID) for i in (22, 19, 16, 13, 9)]) == 4
    past = history([0.1, 0.2, 0.3, 0.45], [torch.randn(5) for _ in range(4)])
    assert torch.equal(DynamicModes()(past, 0.5, NOTHING), Hermite()(past, 0.5, NOTHING))


@pytest.mark.parametrize("reason", ["too few", "not finite"])
def test_modes_fall_back_on_the_configured_hermite_prediction(reason: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(5, generator=generator) for _ in range(4 if reason == "not finite" else 3)]
    if reason == "not finite":
        values[0][0] = torch.nan  # the oldest, which no prediction of order 1 reads
    past = history([0.1, 0.2, 0.3, 0.4][: len(values)], values)
    got = DynamicModes(order=1, sigma=0.8, stride=5)(past, 0.55, NOTHING)
    assert torch.equal(got, Hermite(order=1, sigma=0.8, stride=5)(past, 0.55, NOTHING))
    assert not torch.equal(got, Hermite()(past, 0.55, NOTHING))


def test_modes_of_zero_velocities_are_zero() -> None:
    past = history([0.1, 0.2, 0.3, 0.4], [torch.zeros(5)] * 4)
    assert torch.equal(DynamicModes()(past, 0.5, NOTHING), torch.zeros(5))


def test_mean_flow_is_exact_for_a_linear_velocity() -> None:
    """v = 1 + 2t, x = t + t^2."""
    times = [0.1, 0.25, 0.4]
    past = history(times, [1 + 2 * t for t in times], [t + t * t for t in times])
    for window in (1, 2, 3):
        mean = MeanFlow(window).over(past, 0.5, 0.7, NOTHING)
        assert float(mean) == pytest.approx(((0.7 + 0.49) - (0.5 + 0.25)) / 0.2, rel=1e-6)


def test_chebyshev_fit_with_and_without_ridge() -> None:
    times = [0.0, 0.2, 0.3, 0.5, 0.6]
    past = history(times, [torch.tensor([t**3 - t], dtype=torch.float64) for t in times])
    got = Chebyshev(terms=4, ridge=0.0, blend=1.0)(past, 0.8, NOTHING)
    assert float(got) == pytest.approx(0.8**3 - 0.8, abs=1e-9)
    past = history(times, [torch.tensor([1.0])] * 5)
    assert 0.5 < float(Chebyshev(ridge=0.1, blend=1.0)(past, 0.8, NOTHING)) < 0.999


def test_blend_zero_is_linear_extrapolation() -> None:
    past = history([0.1, 0.3, 0.4], [torch.randn(4) for _ in range(3)])
    torch.testing.assert_close(Chebyshev(blend=0.0)(past, 0.6, NOTHING), Taylor(1)(past, 0.6, NOTHING))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Hermite, {"order": 3}, "order is 3: give a whole number from 1 to 2"),
        (Hermite, {"sigma": 0}, "sigma is 0"),
        (DynamicModes, {"least": 2}, "least is 2"),
        (DynamicModes, {"window": 3}, "window is 3: give a whole number of at least 4"),
        (DynamicModes, {"cutoff": 1.0}, "cutoff is 1.0"),
        (DynamicModes, {"sigma": -1}, "sigma is -1"),
        (MeanFlow, {"window": 0}, "window is 0"),
        (Chebyshev, {"terms": 0}, "terms is 0"),
        (Chebyshev, {"blend": 1.5}, "blend is 1.5"),
        (Chebyshev, {"ridge": -0.1}, "ridge is -0.1"),
    ],
)
def test_invalid_settings_are_refused(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


FILES: dict[str, tuple[Callable[..., np.ndarray], list[int] | None]] = {
    "step_cache": (CASES["hold"][1], [0, 1, 2, 3, 7, 11, 15, 19, 23, 24]),
    "taylorseer": (slow_taylor, PAPER),
    "release": (CASES["line"][1], PAPER),
    "hicache": (slow_hermite, PAPER),
    "dmd": (slow_modes, PAPER),
    "hicache_pp": (partial(slow_modes, order=1, stride=5), [0, 1, 2, 3, 8, 13, 18, 23, 24]),
    "meancache": (slow_mean_flow, PAPER),
    "meancache_path": (slow_mean_flow, [0, 2, 3, 4, 6, 9, 13, 17, 20, 23]),
    "spectrum": (slow_chebyshev, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 24]),
    "easycache": (slow_offset, None),  # its schedule has a slow reference in test_when
    "magcache": (CASES["hold"][1], None),  # and so has this in test_schedules
}


@pytest.mark.parametrize("name", FILES)
def test_config_files_equal_the_slow_reference(name: str) -> None:
    """As configs/ss has them, on SAM 3D's grid."""
    predict, schedule = FILES[name]
    settings = compose([f"ss={name}"])[0]["ss"]
    settings["predict"] = settings["predict"].get("shape", settings["predict"])  # the toy has one leaf
    got, record, _ = driven(settings, ODES["forced"][0])
    assert record.evaluated == (schedule or record.evaluated)
    assert record.saved > 5
    np.testing.assert_allclose(got, slow(ODES["forced"][0], record.evaluated, predict), rtol=0, atol=1e-9)
