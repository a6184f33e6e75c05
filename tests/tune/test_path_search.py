"""The search for schedules, against slow references."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.stage import SolveStage
from fast_sam3d.tune.path_search import FoundPath, agreement, cost, follow, search
from fast_sam3d.tune.problem import Problem
from fast_sam3d.tune.student import Student

STEPS, SIZE = 8, 12


@dataclass(frozen=True, eq=False)
class Curves:
    """A solve without a network: `RecordedSolve` for a velocity that is given as a function of (t, x)."""

    grid: list[float]
    calls: list[int]
    velocity_at: Any
    states: list[dict[str, Tensor]]
    stage: Any = SolveStage("slat", "feats")

    @property
    def objects(self) -> int:
        return len(self.states[0]["feats"])

    @property
    def leaves(self) -> dict[str, Tensor]:
        return self.states[0]

    def velocity(self, leaves: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        x = leaves["feats"]
        turn = self.velocity_at(self.grid[step], x.view(-1, self.objects, SIZE))
        return {"feats": turn.view_as(x)}

    def some(self, rows: Any) -> Curves:
        index = list(rows)

        def part(t: float, x: Tensor) -> Tensor:
            whole = torch.zeros(len(x), self.objects, SIZE)
            whole[:, index] = x
            return self.velocity_at(t, whole)[:, index]

        return replace(self, velocity_at=part, states=[{"feats": s["feats"][index]} for s in self.states])


def problem(velocity: Any, objects: int = 3, steps: int = STEPS, guided: int = 3, **options: Any) -> Problem:
    grid = [step / steps for step in range(steps + 1)]
    calls = [2] * guided + [1] * (steps - guided)
    x = torch.randn(objects, 1, SIZE, generator=torch.Generator().manual_seed(0))
    solve = Curves(grid, calls, velocity, [{"feats": x}])
    for step in range(steps):
        last = solve.states[-1]
        v = solve.velocity(last, step)["feats"]
        solve.states.append({"feats": last["feats"] + v / steps})
    return Problem([solve], **options)  # type: ignore[list-item]


def waves(t: float, x: Tensor) -> Tensor:
    """A velocity that depends on the state, and changes where guidance ends."""
    pace = torch.linspace(1, 6, SIZE)
    return torch.sin(pace * t * 2) - 0.5 * x + (0.4 if t < 0.375 else 0.0) * torch.cos(pace)


def test_on_the_baselines_states_the_programme_finds_the_shortest_path() -> None:
    bed = problem(waves)
    found = search([bed], 11, order=1, assume=True, rounds=0)
    states = [s["feats"] for s in bed.groups[0].states]
    v = [(b - a) * STEPS for a, b in itertools.pairwise(states)]

    def length(nodes: tuple[int, ...]) -> float:
        total = np.zeros(bed.objects)
        for i, j in itertools.pairwise((*nodes, STEPS)):
            gap = (states[i] + (j - i) / STEPS * v[i] - states[j]).flatten(1).square().sum(1) / bed.sizes[0]
            total += gap.sqrt().numpy()
        return float(np.mean(total**2))

    every = [(0, *rest) for count in range(STEPS) for rest in itertools.combinations(range(1, STEPS), count)]
    for calls, path in found.items():
        rivals = [nodes for nodes in every if sum(bed.calls[node] for node in nodes) == calls]
        assert length(path.nodes) == pytest.approx(min(length(nodes) for nodes in rivals), rel=0.05)


def test_errors_are_those_of_a_plain_solve_with_these_nodes_and_weights() -> None:
    bed = problem(waves)
    found = search([bed], 11)
    assert set(found) >= {2, 11}
    for path in found.values():
        x, past = bed.groups[0].states[0]["feats"], []
        for node, end, row in zip(path.nodes, (*path.nodes[1:], STEPS), path.weights, strict=True):
            t, h = node / STEPS, (end - node) / STEPS
            past.insert(0, (t, bed.groups[0].velocity({"feats": x}, node)["feats"]))
            move = h * past[0][1]
            if len(row) > 0:
                d = (past[0][1] - past[1][1]) / (t - past[1][0])
                move = move + row[0] * h**2 / 2 * d
            if len(row) > 1:
                e = (past[1][1] - past[2][1]) / (past[1][0] - past[2][0])
                second = (d - e) / (t - past[2][0])
                move = move + row[1] * (h**3 / 3 + (t - past[1][0]) * h**2 / 2) * second
            x = x + move
        gap = (x - bed.groups[0].states[-1]["feats"]).flatten(1).square().sum(1) / bed.sizes[0]
        assert path.errors[0] == pytest.approx(float(gap.mean()) ** 0.5, rel=1e-3, abs=1e-6)
        assert path.calls == sum(bed.calls[node] for node in path.nodes)


def test_more_calls_are_never_worse_and_local_search_does_not_harm() -> None:
    bed = problem(waves)
    first, better = search([bed], 11, rounds=0), search([bed], 11, rounds=2)
    errors = [path.errors[0] for path in better.values()]
    assert errors == sorted(errors, reverse=True)
    for calls in better:
        assert calls not in first or better[calls].errors[0] <= first[calls].errors[0]


def test_weights_are_those_of_least_squares() -> None:
    bed = problem(waves, objects=2)
    student = Student([bed])
    prefix = student.begin()
    for node in (1, 3):
        prefix = student.evaluate([student.follow(prefix, node, (), ())])[0]
    (move,) = student.moves(prefix, [6])
    h, (v0, v1, v2) = 3 / STEPS, [v[0]["feats"] for _, v in prefix.solved[0].past]
    d, e = (v0 - v1) / (2 / STEPS), (v1 - v2) / (1 / STEPS)
    columns = [h**2 / 2 * d, (h**3 / 3 + 2 / STEPS * h**2 / 2) * (d - e) / (3 / STEPS)]
    gap = bed.groups[0].states[6]["feats"] - prefix.solved[0].x[0]["feats"] - h * v0
    scale = 1 / bed.sizes[0].sqrt()[:, None, None]
    matrix = np.stack([(column * scale).flatten().numpy() for column in columns], 1)
    wanted = np.linalg.lstsq(matrix, (gap * scale).flatten().numpy(), rcond=None)[0].clip(-1, 2)
    assert move.row == pytest.approx(tuple(wanted), abs=0.05)


def test_a_velocity_that_is_linear_in_time_needs_two_evaluations() -> None:
    slope = torch.linspace(-1, 1, SIZE)
    found = search([problem(lambda t, x: 1 + t * slope + 0 * x, guided=0)], 8)
    assert found[2].errors[0] < 0.1 * found[1].errors[0]
    assert 0.8 < found[2].weights[1][0] < 1.2  # 1, but for what the first transition did and for Euler's own steps


def test_another_sampler_gets_the_same_nodes_stretched() -> None:
    reference, other = problem(waves), problem(waves, steps=6, guided=1)
    found = search([reference, other], 11)
    for path in found.values():
        alone = follow([reference, other], path)[0]
        assert alone.errors == pytest.approx(path.errors, rel=1e-4, abs=1e-7)
    assert search([reference, other], 11, objective="worst")[11].errors != found[2].errors


def test_agreement_is_worse_where_objects_move_differently() -> None:
    signs = torch.tensor([1.0, -1.0] * 3).view(1, 6, 1)
    pace = torch.linspace(2, 5, SIZE)

    def apart(t: float, x: Tensor) -> Tensor:
        return torch.sin(pace * 3 * t * (1 + 0.5 * signs)) * signs + 0 * x

    alike, different = problem(waves, 6), problem(apart, 6)
    ratios = [agreement(bed, search([bed], 6, rounds=0)[6]).ratio for bed in (alike, different)]
    assert ratios[0] < 1.3 < ratios[1]


def test_a_path_is_a_method_and_plain_numbers() -> None:
    path = search([problem(waves)], 7, rounds=0)[7]
    assert FoundPath.of(json.loads(json.dumps(path.plain))) == path
    assert path.method()["when"] == {
        "name": "path", "nodes": list(path.nodes), "steps": STEPS, "guided": 3, "rescale_t": 1.0,
    }  # fmt: skip
    assert path.method()["predict"]["name"] == "weighted_multistep"
    shape = replace(path, stage="ss").method()["predict"]
    assert shape["layout"] == {"name": "live", "fallback": "hold"}  # as in the presets: fits a compiled copy, too


def test_what_cannot_be_searched_is_refused() -> None:
    bed = problem(waves)
    with pytest.raises(FastSam3dError, match="1 calls is not possible: the first step alone costs 2"):
        search([bed], 1)
    with pytest.raises(FastSam3dError, match="not finite"):
        search([problem(lambda t, x: x * float("nan"))], 6)
    with pytest.raises(FastSam3dError, match="calibrate on more objects"):
        agreement(problem(waves, 1), search([bed], 4, rounds=0)[4])


def test_the_cost_is_an_upper_bound_of_the_calls_made() -> None:
    bed = problem(waves)
    search([bed], 9, rounds=0)
    assert 0 < bed.calls_made[0] <= cost(bed, 9) * bed.objects
