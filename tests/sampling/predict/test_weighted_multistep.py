"""Weighted multistep corrections against a slow solver on the nodes of a path."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.history import History, leaf_history
from fast_sam3d.sampling.predict.weighted_multistep import WeightedMultistep
from fast_sam3d.sampling.step import Evaluation, LeafEvaluation
from tests.sampling.reference import GRID, ODES, START, Field, driven, integral, lagrange

NODES = [0, 3, 4, 9, 15, 19, 22]
ROWS = [[], [0.9], [0.5, -0.3], [], [1.0, 0.7], [0.0, 1.2]]


def path(name: str = "weighted_multistep", **predict: Any) -> dict[str, Any]:
    return {"when": {"name": "path", "nodes": NODES}, "predict": {"name": name, **predict}}


def slow_weighted(field: Field, times: list[float], rows: list[list[float]]) -> np.ndarray:
    """From node to node, by blending the integrals of Lagrange's polynomials of each order."""
    x, past = START, []
    for number, (a, b) in enumerate(pairwise(times)):
        past = [(a, field(x, a)), *past]
        row = [1.0, *(rows[number] if number < len(rows) else [])]
        moved = []
        for order in range(1, len(row) + 1):
            nodes = [t for t, _ in past[:order]]
            parts = [
                integral(lambda s, i=i, nodes=nodes: lagrange(nodes, i, s), a, b) * v
                for i, (_, v) in enumerate(past[:order])
            ]
            moved.append(sum(parts))
        x = x + sum(w * (m - (moved[i - 1] if i else 0)) for i, (w, m) in enumerate(zip(row, moved, strict=True)))
    return x


@pytest.mark.parametrize("ode", ODES)
@pytest.mark.parametrize("rows", [ROWS, [], [[], [1.0]], [[], [], [0.3]], [[], [1.0], *[[1.0, 1.0]] * 5]])
def test_solves_equal_the_slow_reference(ode: str, rows: list[list[float]]) -> None:
    got, record, _ = driven(path(weights=rows), ODES[ode][0])
    assert record.evaluated == NODES and record.fallbacks == 0
    times = [*(GRID[node] for node in NODES), 1.0]
    np.testing.assert_allclose(got, slow_weighted(ODES[ode][0], times, rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_weights_of_one_are_adams_bashforth(order: int) -> None:
    rows = [[1.0] * min(number, order - 1) for number in range(len(NODES))]
    got, _, states = driven(path(weights=rows), ODES["affine"][0])
    expected, _, all_states = driven(path("adams_bashforth", order=order), ODES["affine"][0])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.array(states), np.array(all_states), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rows", [[], [[], [0.0], [0.0, 0.0]]])
def test_weights_of_zero_hold_to_the_bit(rows: list[list[float]]) -> None:
    held = driven(path("hold"), ODES["forced"][0])[0]
    assert np.array_equal(driven(path(weights=rows), ODES["forced"][0])[0], held)


def test_each_leaf_has_its_own_weights() -> None:
    leaves = {"shape": {"name": "weighted_multistep", "weights": ROWS}, "layout": {"name": "hold"}}
    method = build_stage_method(
        {"when": {"name": "path", "nodes": NODES}, "predict": leaves}, {"shape": ["shape"], "layout": ["scale", "pose"]}
    )
    assert method.depth == 3 and method.same_for_all_objects
    assert method.settings()["predict"]["shape"] == leaves["shape"]
    assert method.settings()["predict"]["pose"] == {"name": "hold"}


def test_row_is_that_of_the_evaluation_and_not_of_those_kept() -> None:
    history: History[Evaluation] = History(2)
    for number, t in enumerate([0.0, 0.2, 0.3, 0.6]):
        assert history.number == number
        history.push(Evaluation(t, {"x": torch.zeros(1)}, {"x": torch.tensor([t])}))
    past = leaf_history(history, "x")
    assert (len(past), past.number) == (2, 4)
    held = WeightedMultistep([[], [1.0], [1.0]])  # type: ignore[arg-type]
    line = WeightedMultistep([[], [], [], [1.0]])  # type: ignore[arg-type]
    assert held.over(past, 0.6, 0.8, torch.zeros(1)).item() == pytest.approx(0.6)
    assert line.over(past, 0.6, 0.8, torch.zeros(1)).item() == pytest.approx(0.7)  # the mean of v = t
    assert line(past, 0.8, torch.zeros(1)).item() == pytest.approx(0.8)


def test_a_first_evaluation_under_a_later_number_is_held() -> None:
    """Nodes that fell together on the first step of a shorter solve."""
    past = History(2, [LeafEvaluation(0.0, torch.zeros(1), torch.ones(1))], number=2)
    assert WeightedMultistep([[], [1.0]]).over(past, 0.0, 0.5, torch.zeros(1)).item() == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("1", "weights is '1': give a list"),
        ([1.0], r"weights\[0\] is 1.0: give a list"),
        ([[0.5]], r"weights\[0\] is \[0.5\]: give it at most 0"),
        ([[], [1.0, 1.0]], r"weights\[1\] is \[1.0, 1.0\]: give it at most 1"),
        ([[], [], [], [1.0, 1.0, 1.0]], "give it at most 2"),
        ([[], [float("nan")]], r"weights\[1\] is nan: give a number from -10 to 10"),
        ([[], ["a"]], r"weights\[1\] is 'a'"),
        ([[], [10.1]], r"weights\[1\] is 10.1"),
        ([[], [-10.1]], r"weights\[1\] is -10.1"),
    ],
)
def test_invalid_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightedMultistep(weights)


def test_the_largest_weights_are_accepted() -> None:
    assert WeightedMultistep([[], [10], [-10.0, 10.0]]).weights == ((), (10.0,), (-10.0, 10.0))  # type: ignore[arg-type]


def test_more_rows_than_nodes_are_refused() -> None:
    method = path(weights=[*ROWS, [], []])
    with pytest.raises(ConfigError, match=r"ss.predict has settings for 8 evaluations of 'x', and ss.when has 7"):
        build_stage_method(method, {"x": ["x"]}, path="ss")
    build_stage_method({**method, "when": {"name": "stride"}}, {"x": ["x"]})
