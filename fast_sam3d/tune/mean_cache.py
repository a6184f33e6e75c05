"""The schedule of MeanCache, measured on a model: a shortest path through the errors of mean velocities.

    solves = [collect(pipeline, item)["ss"] for item in items]
    mean_cache.nodes(Problem.of(solves), evaluations=10)    # for `when: {name: path, nodes: ...}`

Source: MeanCache (arXiv 2601.19961), "peak-suppressed shortest path"; the power is ours. All that it needs are the
baseline's states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_sam3d.tune.problem import Problem

__all__ = ["nodes", "transition_errors"]

LONGEST = 6
"""Steps before a node over which the mean velocity is taken, at most."""


def nodes(problem: Problem, evaluations: int, power: float = 4.0) -> list[int]:
    """The steps at which the network runs.

    Args:
        problem: the baseline's solves of some objects.
        evaluations: how many steps those are; guided ones count as one, as in the paper.
        power: of each error in the sum; above 1, one large error counts more than several small ones.

    Raises:
        ValueError: there are not so many steps.
    """
    steps = problem.steps
    if not 1 <= evaluations <= steps:
        raise ValueError(f"evaluations is {evaluations}: give 1 to {steps}")
    costs = transition_errors(problem) ** power
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}  # by node, with as many nodes before it
    for _ in range(evaluations - 1):
        following: dict[int, tuple[float, list[int]]] = {}
        for node, (cost, path) in best.items():
            for to in range(node + 1, steps):
                total = cost + float(costs[node, to])
                if to not in following or total < following[to][0]:
                    following[to] = (total, [*path, to])
        best = following
    return min((cost + float(costs[node, steps]), path) for node, (cost, path) in best.items())[1]


def transition_errors(problem: Problem) -> Tensor:
    """[steps, steps + 1] mean error of the main leaf after a transition between two of the baseline's states.

    The velocity is `predict.mean_flow`'s, with the best of the windows of one to six steps; 0 where there is none.
    """
    found = torch.zeros(problem.steps, problem.steps + 1, dtype=torch.float64)
    for group in problem.groups:
        states = [state[problem.leaf].double().cpu() for state in group.states]
        for node in range(problem.steps):
            found[node] += _errors_from(node, states, problem.grid) / len(problem.groups)
    return found


def _errors_from(node: int, states: Sequence[Tensor], times: Sequence[float]) -> Tensor:
    """[steps + 1] of the transitions from one node."""
    x, t = states[node], times[node]
    velocity = (states[node + 1] - x) / (times[node + 1] - t)
    bends = [torch.zeros_like(x)]
    if node:
        spans = [(t - times[first], x - states[first]) for first in range(max(node - LONGEST, 0), node)]
        bends = [(velocity - moved / span) / span for span, moved in spans]
    errors = torch.zeros(len(times), dtype=torch.float64)
    for to in range(node + 1, len(times)):
        h = times[to] - t
        errors[to] = min(float((x + h * (velocity + h * bend) - states[to]).abs().mean()) for bend in bends)
    return errors
