"""Solves that follow a schedule on the calibration objects, and the weights that keep them near the baseline.

From node i to node j a leaf moves by x + h (v + w1 c2 + w2 c3), h = t_j - t_i: v is the velocity at node i, c2 and c3
are what Adams-Bashforth of order 2 and of order 3 add to it (`sampling.predict.weighted_multistep`). The weights are
those of the least squared error against the baseline's state at t_j, over all objects, each relative to its result.
The state is the student's own, so they also correct what earlier transitions did. Rounded to two decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.sampling.predict.newton import differences
from fast_sam3d.sampling.step import Leaves
from fast_sam3d.sampling.when.path import placed
from fast_sam3d.tune.problem import Problem

__all__ = ["Move", "Prefix", "Row", "Student"]

Row: TypeAlias = tuple[float, ...]
RANGE = (-1.0, 2.0)
"""Of a weight."""
RIDGE = 1e-3
"""Of the least squares, as a share of each weight's own sum of squares: only where directions are nearly parallel."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A prefix on one problem: [groups] leaves at its last step, and (t, [groups] velocities), newest first."""

    step: int
    x: list[Leaves]
    past: tuple[tuple[float, list[Leaves]], ...] = ()


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first nodes of a schedule, and what following them gives.

    Args:
        nodes: of the first problem's grid; the last may be its end.
        rows: weights of the main leaf for each transition so far.
        others: likewise of the other leaves.
        calls: network calls on the first problem, those at the last node included.
        solved: [problems].
        errors: [problems] of [objects], squared relative error of the main leaf at the last node; the sum over
            transitions where the baseline is not followed but assumed.
    """

    nodes: tuple[int, ...]
    rows: tuple[Row, ...]
    others: tuple[Row, ...]
    calls: int
    solved: list[Solved]
    errors: list[NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Move:
    """A transition that a prefix may make next, with its fitted weights and its errors as in `Prefix`."""

    prefix: Prefix
    node: int
    row: Row
    errors: list[NDArray[np.float64]]


class Student:
    """Follows schedules on one or more problems at once, with the same nodes and weights.

    Nodes are those of the first problem, and those of the others as `sampling.when.path.placed` has them.

    Args:
        problems: of one stage.
        order: 1 holds, 2 has one weight, 3 has two.
        assume: take the baseline's state and velocity at each node instead of calling the network: no calls, but errors
            that feed on each other are not seen.
    """

    def __init__(self, problems: Sequence[Problem], order: int = 3, assume: bool = False) -> None:
        self.problems, self.order, self.assume = list(problems), order, assume
        self.reference = first = problems[0]
        ours = (first.grid, first.guided)
        self.steps_of = [
            [next(iter(placed([node], ours, (p.grid, p.guided)))) for node in range(first.steps)] + [p.steps]
            for p in problems
        ]

    def begin(self) -> Prefix:
        """The schedule with node 0 alone."""
        solved = [Solved(0, [group.states[0] for group in problem.groups]) for problem in self.problems]
        errors = [np.zeros(problem.objects) for problem in self.problems]
        return self.evaluate([Prefix((0,), (), (), self.reference.calls[0], solved, errors)])[0]

    def evaluate(self, prefixes: Sequence[Prefix]) -> list[Prefix]:
        """Prefixes that end at the same node, with the velocities there."""
        solved = [list(prefix.solved) for prefix in prefixes]
        for number, problem in enumerate(self.problems):
            # Where two nodes fall on one step, the velocity there is known.
            fresh = [i for i, parts in enumerate(solved) if not _known(problem, parts[number])]
            if not fresh:
                continue
            step = solved[fresh[0]][number].step
            if self.assume:
                velocities = [_baseline(problem, step)] * len(fresh)
            else:
                velocities = problem.velocities([solved[i][number].x for i in fresh], step)
            for i, v in zip(fresh, velocities, strict=True):
                part = solved[i][number]
                past = ((problem.grid[step], v), *part.past)[: self.order]
                solved[i][number] = Solved(step, part.x, past)
        return [replace(prefix, solved=parts) for prefix, parts in zip(prefixes, solved, strict=True)]

    def moves(self, prefix: Prefix, nodes: Sequence[int]) -> list[Move]:
        """The transitions to some later nodes, each with its best weights."""
        order = min(self.order, len(prefix.nodes))
        tables = [self._normal(i, prefix.solved[i], nodes, (problem.leaf,), order) for i, problem in
                  enumerate(self.problems)]  # fmt: skip
        found = []
        for k, node in enumerate(nodes):
            parts = [table[k] for table in tables]
            row = _fit(parts, [p.weight**2 / p.objects for p in self.problems], order - 1)
            errors = [_errors(part, row) for part in parts]
            if self.assume:
                errors = [(a**0.5 + b**0.5) ** 2 for a, b in zip(errors, prefix.errors, strict=True)]
            found.append(Move(prefix, node, row, errors))
        return found

    def make(self, move: Move) -> Prefix:
        """The prefix with the transition made, not evaluated yet. The weights of the other leaves are fitted here."""
        prefix = move.prefix
        other: Row = ()
        order = min(self.order, len(prefix.nodes))
        if names := self.reference.others:
            parts = [self._normal(i, part, [move.node], names, order)[0] for i, part in enumerate(prefix.solved)]
            other = _fit(parts, [p.weight**2 / p.objects for p in self.problems], order - 1)
        return self.follow(prefix, move.node, move.row, other, move.errors)

    def follow(
        self, prefix: Prefix, node: int, row: Row, other: Row, errors: list[NDArray[np.float64]] | None = None
    ) -> Prefix:
        """The prefix after a transition with given weights; errors None: measured."""
        solved = []
        for number, (problem, part) in enumerate(zip(self.problems, prefix.solved, strict=True)):
            step = self.steps_of[number][node]
            if step == part.step:
                solved.append(part)
                continue
            if self.assume:
                solved.append(Solved(step, [group.states[step] for group in problem.groups], part.past))
                continue
            h, factors = self._factors(problem, part, step)
            x: list[Leaves] = []
            for g, leaves in enumerate(part.x):
                moved = {}
                for name, leaf in leaves.items():
                    slopes, weights = _slopes(part, g, name), row if name == problem.leaf else other
                    moved[name] = leaf + h * slopes[0]
                    for slope, factor, weight in zip(slopes[1:], factors, weights, strict=False):
                        moved[name] = moved[name] + (weight * factor) * slope
                x.append(moved)
            solved.append(Solved(step, x, part.past))
        if errors is None:
            errors = [self._distances(problem, part) for problem, part in zip(self.problems, solved, strict=True)]
        calls = prefix.calls + (self.reference.calls[node] if node < self.reference.steps else 0)
        return Prefix((*prefix.nodes, node), (*prefix.rows, row), (*prefix.others, other), calls, solved, errors)

    def _distances(self, problem: Problem, part: Solved) -> NDArray[np.float64]:
        found = []
        for group, size, x in zip(problem.groups, problem.sizes, part.x, strict=True):
            difference = x[problem.leaf] - group.states[part.step][problem.leaf]
            found.append(difference.flatten(1).square().sum(1) / size)
        return torch.cat(found).cpu().double().numpy()

    def _factors(self, problem: Problem, part: Solved, step: int) -> tuple[float, list[float]]:
        """h, and the integrals of Newton's basis (s - t0), (s - t0)(s - t1) from t0 to t0 + h."""
        times = [t for t, _ in part.past]
        h = problem.grid[step] - times[0]
        second = [] if len(times) < 2 else [h * h * (h / 3 + (times[0] - times[1]) / 2)]
        return h, [h * h / 2, *second]

    def _normal(
        self, number: int, part: Solved, nodes: Sequence[int], names: Sequence[str], order: int
    ) -> list[NDArray[np.float64]]:
        """For each node [objects, order, order]: inner products of the error without weights and of what each adds."""
        problem = self.problems[number]
        steps = [self.steps_of[number][node] for node in nodes]
        count, tables = min(order, len(part.past)), []
        for g, group in enumerate(problem.groups):
            # The other leaves have a mean square of about 1 each.
            size = problem.sizes[g] if names == (problem.leaf,) else torch.ones_like(problem.sizes[g])
            slopes = [_slopes(part, g, name)[:count] for name in names]
            added = [_flat(each) for each in zip(*slopes, strict=True)]
            x, rows = _flat([part.x[g][name] for name in names]), []
            for step in steps:
                h, factors = self._factors(problem, part, step)
                error = x + h * added[0] - _flat([group.states[step][name] for name in names])
                columns = torch.stack([error, *(f * d for f, d in zip(factors, added[1:], strict=False))], 1)
                rows.append(columns @ columns.transpose(1, 2) / size[:, None, None])
            tables.append(torch.stack(rows))
        table = torch.cat(tables, 1).cpu().double().numpy()
        full = np.zeros((*table.shape[:2], order, order))
        full[:, :, :count, :count] = table
        for k, step in enumerate(steps):
            if step == part.step:  # the node falls on the step of the last one: this transition is not made
                full[k] = 0
        return list(full)


def _flat(leaves: Sequence[Tensor]) -> Tensor:
    """[B, ...] leaves as one [B, D]."""
    return torch.cat([leaf.flatten(1) for leaf in leaves], 1)


def _known(problem: Problem, part: Solved) -> bool:
    return bool(part.past) and part.past[0][0] == problem.grid[part.step]


def _baseline(problem: Problem, step: int) -> list[Leaves]:
    h = problem.grid[step + 1] - problem.grid[step]
    pairs = [(group.states[step], group.states[step + 1]) for group in problem.groups]
    return [{name: (after[name] - before[name]) / h for name in before} for before, after in pairs]


def _slopes(part: Solved, group: int, name: str) -> list[Tensor]:
    """The newest velocity of a leaf, and its divided differences."""
    return differences([t for t, _ in part.past], [v[group][name] for _, v in part.past])


def _fit(parts: Sequence[NDArray[np.float64]], weights: Sequence[float], count: int) -> Row:
    """The weights of least squares, of [problems] tables of inner products."""
    total = sum(weight * part.sum(0) for weight, part in zip(weights, parts, strict=True))
    square, right = total[1:, 1:], -total[1:, 0]
    scale = np.sqrt(np.diagonal(square).clip(1e-300))
    if not count or not np.isfinite(total).all():
        return ()
    found = np.linalg.solve(square / np.outer(scale, scale) + RIDGE * np.eye(count), right / scale) / scale
    return tuple(float(w) + 0.0 for w in np.clip(np.round(found, 2), *RANGE))


def _errors(part: NDArray[np.float64], row: Row) -> NDArray[np.float64]:
    """[objects] squared error with some weights."""
    w = np.array([1.0, *row])
    return np.einsum("bij,i,j->b", part, w, w).clip(0)
