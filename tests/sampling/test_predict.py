"""Predictors on plain tensors: polynomials in real t, on a grid that is not uniform."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict import PREDICT
from fast_sam3d.sampling.predict.anchored import Anchored
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.predict.offset import Offset
from fast_sam3d.sampling.predict.taylor import Taylor, extrapolate
from fast_sam3d.sampling.step import LeafEvaluation


def grid(steps: int = 25) -> list[float]:
    """SAM 3D's sparse-structure grid, t = s / (3 - 2s)."""
    return [s / (3 - 2 * s) for s in (i / steps for i in range(steps + 1))]


def polynomial(order: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(order)
    coefficients = torch.randn(order + 1, 3, 4, generator=generator, dtype=torch.float64)
    values = [sum(c * t**power for power, c in enumerate(coefficients)) for t in grid()]
    return coefficients, [torch.as_tensor(v).to(dtype) for v in values]


def history(values: list[Tensor], steps: list[int], depth: int = 3) -> History[LeafEvaluation]:
    """Of the evaluations at `steps`, oldest first."""
    result: History[LeafEvaluation] = History(depth)
    for step in steps:
        result.push(LeafEvaluation(grid()[step], torch.zeros_like(values[step]), values[step]))
    return result


@pytest.mark.parametrize("order", [1, 2])
def test_polynomials_up_to_the_order_are_exact_on_the_non_uniform_grid(order: int) -> None:
    _, values = polynomial(order)
    for past, ahead in [([0, 1, 4], 5), ([0, 1, 4], 6), ([7, 10, 13], 15), ([16, 19, 22], 23)]:
        predicted = Taylor(order)(history(values, past), grid()[ahead], values[0])
        torch.testing.assert_close(predicted, values[ahead], rtol=1e-10, atol=1e-10)


def test_differences_in_the_step_index_are_not_exact() -> None:
    """The same differences taken in the step index, as in the public release, miss by far more than rounding."""
    _, values = polynomial(1)
    by_index = values[22] + (values[22] - values[19]) / 3
    assert (by_index - values[23]).abs().max() > 1e-2


def test_polynomials_above_the_order_are_not_exact() -> None:
    _, values = polynomial(2)
    assert not torch.allclose(Taylor(1)(history(values, [7, 10, 13]), grid()[15], values[0]), values[15], atol=1e-3)


def test_extrapolation_by_hand() -> None:
    past: History[LeafEvaluation] = History(3)
    for t, v in [(0.0, 1.0), (1.0, 2.0), (3.0, 10.0)]:
        past.push(LeafEvaluation(t, torch.zeros(1), torch.tensor([v])))
    # Divided differences: [1, 3] -> 4, [0, 1] -> 1, [0, 1, 3] -> 1; so 10 + 4 (t - 3) + (t - 3)(t - 1).
    assert extrapolate(past, 4.0, 1).item() == 14.0
    assert extrapolate(past, 4.0, 2).item() == 17.0


def test_order_zero_and_hold_return_the_last_velocity_itself() -> None:
    _, values = polynomial(1)
    past = history(values, [0, 1, 4])
    assert Taylor(0)(past, 0.9, values[0]) is values[4]
    assert Hold()(past, 0.9, values[0]) is values[4]


def test_order_is_limited_by_the_number_of_evaluations() -> None:
    _, values = polynomial(1)
    assert Taylor(2)(history(values, [3]), 0.9, values[0]) is values[3]
    assert Anchored()(history(values, [3]), 0.9, values[0]) is values[3]
    torch.testing.assert_close(Taylor(2)(history(values, [0, 4]), grid()[6], values[0]), values[6])


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_anchored_blends_extrapolation_and_anchor(beta: float) -> None:
    _, values = polynomial(2)
    past = history(values, [4, 7])
    mixed = beta * Taylor(1)(past, grid()[9], values[0]) + (1 - beta) * values[7]
    torch.testing.assert_close(Anchored(beta)(past, grid()[9], values[0]), mixed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("predictor", [Taylor(2), Anchored(0.5), Hold()])
def test_inputs_are_not_changed(predictor: Taylor | Anchored | Hold) -> None:
    _, values = polynomial(2)
    before = [v.clone() for v in values]
    predictor(history(values, [1, 4, 7]), grid()[9], values[0])
    assert all(torch.equal(a, b) for a, b in zip(before, values, strict=True))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Taylor, {"order": 3}, "order is 3: give a whole number from 0 to 2"),
        (Taylor, {"order": -1}, "order is -1"),
        (Taylor, {"order": 1.0}, "order is 1.0"),
        (Taylor, {"order": True}, "order is True"),
        (Anchored, {"beta": 1.5}, "beta is 1.5: give a number from 0 to 1"),
        (Anchored, {"beta": float("nan")}, "beta is nan"),
        (Anchored, {"beta": "0.5"}, "beta is '0.5'"),
    ],
)
def test_invalid_settings_are_refused(kind: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_every_predictor_is_registered_with_its_depth() -> None:
    depths = {name: kind().depth for name, kind in PREDICT.items()}
    assert depths.items() >= {"anchored": 2, "hold": 1, "offset": 1, "taylor": 2}.items()


def test_history_is_bounded_and_replaces_equal_times() -> None:
    past: History[LeafEvaluation] = History(2)
    for t, v in [(0.0, 0.0), (0.1, 1.0), (0.2, 2.0), (0.2, 3.0)]:
        past.push(LeafEvaluation(t, torch.zeros(1), torch.tensor([v])))
    assert [(e.t, e.v.item()) for e in past] == [(0.2, 3.0), (0.1, 1.0)]
    with pytest.raises(ValueError, match="depth is 0"):
        History(0)


def test_offset_adds_the_last_difference_to_the_state() -> None:
    past: History[LeafEvaluation] = History(2)
    past.push(LeafEvaluation(0.1, torch.tensor([9.0]), torch.tensor([9.0])))
    past.push(LeafEvaluation(0.2, torch.tensor([1.0]), torch.tensor([4.0])))
    assert Offset()(past, 0.5, torch.tensor([10.0])).item() == 13.0
