"""The best schedule for every number of network calls: dynamic programming over the steps of the baseline's grid.

For each (calls so far, node) the incoming transition with the least error is kept, and the network evaluated there once
on the student's own state: the nodes of all budgets come out of one pass. The error at a node is that of the state
against the baseline's at the same time, so the last one is the error of the result. Then nodes are moved, added and
dropped around the best schedule of each budget.

Source: recursive dynamic programming as in Optimal Stepsize (arXiv 2503.21774). Ours: the cost is in network calls, of
which a guided step makes two; fitted multistep weights; several samplers at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.problem import Problem
from fast_sam3d.tune.student import Move, Prefix, Row, Student

__all__ = ["Agreement", "FoundPath", "agreement", "cost", "follow", "search", "shortest"]

Objective: TypeAlias = Literal["mean", "worst"]


@dataclass(frozen=True)
class FoundPath:
    """A schedule and its weights. JSON-ready by `plain`.

    Args:
        stage: "ss" or "slat".
        nodes: steps of the baseline's grid at which the network runs.
        weights: a row for each node, of the main leaf (shape or feats).
        layout: likewise for the layout leaves; empty rows where there are none. Not needed where layout is live.
        calls: network calls under the first problem's sampler.
        steps, guided: of the first problem's sampler, see `sampling.when.path.Path`.
        errors: for each problem, root of the mean squared relative error of the result on the calibration objects.
        rescale_t: of the first problem's time grid.
    """

    stage: str
    nodes: tuple[int, ...]
    weights: tuple[Row, ...]
    layout: tuple[Row, ...]
    calls: int
    steps: int
    guided: int
    errors: tuple[float, ...]
    rescale_t: float = 3.0

    @property
    def plain(self) -> dict[str, Any]:
        """Numbers, strings and lists."""
        return {name: _lists(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> FoundPath:
        """The inverse of `plain`."""
        return cls(**{name: _tuples(value) for name, value in plain.items()})

    def method(self, live: bool = True) -> dict[str, Any]:
        """The stage's method, as a configuration has it.

        Args:
            live: the layout is evaluated at every step (`predict: {layout: {name: live}}`); else it has its weights.
        """
        sampler = {"steps": self.steps, "guided": self.guided, "rescale_t": self.rescale_t}
        when = {"name": "path", "nodes": _lists(self.nodes), **sampler}
        main = {"name": "weighted_multistep", "weights": _lists(self.weights)}
        if self.stage != "ss":
            return {"when": when, "predict": main}
        if not live and not any(self.layout):  # of a model without a layout
            return {"when": when, "predict": {"shape": main}}
        layout = {"name": "weighted_multistep", "weights": _lists(self.layout)}
        if live:  # held where a copy of the network, say a compiled one, cannot evaluate it alone
            layout = {"name": "live", "fallback": "hold"}
        return {"when": when, "predict": {"shape": main, "layout": layout}}


def shortest(problem: Problem) -> int:
    """The least number of calls that a schedule can have: those of the first step."""
    return problem.calls[0]


def cost(problem: Problem, most: int, beam: int = 1) -> int:
    """Network calls for each object that the dynamic programming of `search` makes at most."""
    reached: list[set[int]] = [set() for _ in range(problem.steps)]
    reached[0].add(problem.calls[0])
    total = problem.calls[0]
    for node in range(1, problem.steps):
        calls = problem.calls[node]
        sums = {before + calls for earlier in reached[:node] for before in earlier if before + calls <= most}
        reached[node] = sums
        total += len(sums) * calls * beam
    return total


def search(
    problems: Sequence[Problem],
    most: int = 30,
    *,
    order: int = 3,
    beam: int = 1,
    objective: Objective = "mean",
    assume: bool = False,
    only: Sequence[int] | None = None,
    rounds: int = 2,
    seconds: float | None = None,
    progress: Callable[[float], None] = lambda share: None,
    judge: Callable[[Prefix], float] | None = None,
    around: Sequence[int] | None = None,
) -> dict[int, FoundPath]:
    """The best schedules by their number of calls.

    Args:
        problems: one, or several of one stage under different samplers, which share nodes and weights. Nodes and calls
            are those of the first; `FoundPath.errors` has all.
        most: calls of the most expensive schedule.
        order: highest order of the predictor, 1 to 3.
        beam: prefixes kept for each (calls, node).
        objective: over the problems, the mean or the worst of (error x weight).
        assume: on the baseline's states, so that the search itself makes no calls; each schedule found is then
            followed once for its weights and errors. For models where a call is expensive.
        only: budgets that are wanted; None: all. Others are not followed, which matters with `assume`.
        rounds: of the local search at most; 0: none.
        seconds: local search ends within so many from the start; the pass before it is not cut short, see `cost`.
        progress: receives the share that is done.
        judge: what the local search makes small, of a complete schedule's end; None: the objective.
        around: numbers of calls whose schedules the local search changes, in this order; None: all, ascending.

    Returns:
        calls -> schedule, without those that a schedule with fewer calls is better than.

    Raises:
        FastSam3dError: `most` is below the shortest schedule, or a velocity is not finite.
    """
    end = None if seconds is None else time.monotonic() + seconds
    least = shortest(problems[0])
    if most < least:
        raise FastSam3dError(f"a schedule of {most} calls is not possible: the first step alone costs {least}")
    measure = _score(objective, [problem.weight for problem in problems])
    student = Student(problems, order)
    found = _programme(Student(problems, order, assume=True) if assume else student, most, beam, measure, progress)
    if only is not None:
        found = {calls: found[calls] for calls in {_within(found, budget, measure) for budget in only}}
    if assume:
        found = {calls: [_chain(student, student.begin(), path.nodes[1:]) for path in paths]
                 for calls, paths in found.items()}  # fmt: skip
    final: Callable[[Prefix], float] = measure if judge is None else judge
    best = {calls: min(paths, key=final) for calls, paths in found.items()}
    for _ in range(rounds):
        if not _improve(student, best, most, final, end, around):
            break
    return _front({calls: _found(student, path) for calls, path in best.items()}, final, best)


def _within(found: dict[int, list[Prefix]], budget: int, measure: Callable[[Move | Prefix], float]) -> int:
    """The number of calls of the best schedule within a budget; the least where none is."""
    fitting = [calls for calls in found if calls <= budget] or [min(found)]
    return min(fitting, key=lambda calls: min(map(measure, found[calls])))


def follow(problems: Sequence[Problem], path: FoundPath, refit: bool = False) -> tuple[FoundPath, Prefix]:
    """The schedule followed on problems, which need not be those of its search: with its errors there, and its end.

    Args:
        refit: fit its weights anew.
    """
    student = Student(problems)
    prefix = student.begin()
    rows = zip(path.weights, path.layout, strict=True)
    for node, (row, other) in zip((*path.nodes[1:], student.reference.steps), rows, strict=True):
        if refit:
            prefix = student.make(student.moves(prefix, [node])[0])
        else:
            prefix = student.follow(prefix, node, row, other)
        if node < student.reference.steps:
            prefix = student.evaluate([prefix])[0]
    return _found(student, prefix), prefix


@dataclass(frozen=True)
class Agreement:
    """How well a calibration on half of the objects serves the other half.

    Args:
        seen: relative error on the objects that weights were fitted on, mean of both halves.
        unseen: on the others.
    """

    seen: float
    unseen: float

    @property
    def ratio(self) -> float:
        """Of the two; 1: objects agree perfectly."""
        return self.unseen / self.seen if self.seen > 0 else float(self.unseen > 0) + 1.0


def agreement(problem: Problem, path: FoundPath) -> Agreement:
    """Fit a schedule's weights on each half of the objects, and follow it on the other one.

    Raises:
        FastSam3dError: fewer than two objects.
    """
    if problem.objects < 2:
        raise FastSam3dError("whether objects agree can be measured on two of them or more: calibrate on more objects")
    halves = [problem.part(range(first, problem.objects, 2)) for first in (0, 1)]
    fitted = [follow([half], path, refit=True)[0] for half in halves]
    crossed = [follow([half], other)[0] for half, other in zip(halves, reversed(fitted), strict=True)]
    seen, unseen = ([each.errors[0] for each in paths] for paths in (fitted, crossed))
    return Agreement(float(np.mean(seen)), float(np.mean(unseen)))


def _score(objective: Objective, weights: Sequence[float]) -> Callable[[Move | Prefix], float]:
    over: Callable[[list[float]], Any] = np.max if objective == "worst" else np.mean

    def measure(item: Move | Prefix) -> float:
        value = float(over([w * float(np.mean(e)) ** 0.5 for w, e in zip(weights, item.errors, strict=True)]))
        return value if np.isfinite(value) else np.inf

    return measure


def _programme(
    student: Student, most: int, beam: int, measure: Callable[[Move | Prefix], float], progress: Callable[[float], None]
) -> dict[int, list[Prefix]]:
    """The best complete schedules by calls."""
    first = student.reference
    waiting: list[dict[int, list[Move]]] = [{} for _ in range(first.steps + 1)]
    layer = [student.begin()]
    for node in range(first.steps):
        if node:
            moves = [move for group in waiting[node].values() for move in group]
            waiting[node] = {}  # their states are not needed any more
            layer = student.evaluate([student.make(move) for move in moves]) if moves else []
        for prefix in layer:
            later = [j for j in range(node + 1, first.steps) if prefix.calls + first.calls[j] <= most]
            for move in student.moves(prefix, [*later, first.steps]):
                calls = prefix.calls + (first.calls[move.node] if move.node < first.steps else 0)
                best = waiting[move.node].setdefault(calls, [])
                best.append(move)
                best.sort(key=measure)
                del best[beam:]
        progress((node + 1) / first.steps)
    ends = {calls: [student.make(move) for move in moves] for calls, moves in sorted(waiting[-1].items())}
    if not any(np.isfinite(measure(path)) for paths in ends.values() for path in paths):
        raise FastSam3dError(
            "calibration: the network's velocities are not finite: run in float32, or check the weights"
        )
    return ends


def _chain(student: Student, prefix: Prefix, nodes: Sequence[int]) -> Prefix:
    """The prefix continued over some nodes with fitted weights."""
    for node in nodes:
        prefix = student.make(student.moves(prefix, [node])[0])
        if node < student.reference.steps:
            prefix = student.evaluate([prefix])[0]
    return prefix


def _improve(
    student: Student,
    best: dict[int, Prefix],
    most: int,
    measure: Callable[[Prefix], float],
    end: float | None,
    around: Sequence[int] | None,
) -> bool:
    """One round of local search; whether any schedule became better. All candidates take their steps together."""
    first, improved = student.reference, False
    tried, took = {path.nodes for path in best.values()}, 0.0
    for calls in sorted(best) if around is None else [calls for calls in around if calls in best]:
        began = time.monotonic()
        if end is not None and began + took > end:
            return False
        wanted = _neighbours(best[calls].nodes[:-1], first.steps) - tried
        tried |= wanted
        wanted = {nodes for nodes in wanted if sum(first.calls[node] for node in nodes[:-1]) <= most}
        for path in _followed(student, wanted):
            known = best.get(path.calls)
            if known is None or measure(path) < measure(known):
                best[path.calls], improved = path, True
        took = time.monotonic() - began
    return improved


def _neighbours(nodes: tuple[int, ...], steps: int) -> set[tuple[int, ...]]:
    """Schedules with one node moved by one or two steps, dropped, or added."""
    found = set()
    for i in range(1, len(nodes)):
        rest = (*nodes[:i], *nodes[i + 1 :])
        found |= {rest, *(tuple(sorted({*rest, nodes[i] + by})) for by in (-2, -1, 1, 2))}
    found |= {tuple(sorted({*nodes, node})) for node in range(1, steps)}
    return {(*path, steps) for path in found if path[-1] < steps and path[0] == 0}


def _followed(student: Student, wanted: set[tuple[int, ...]]) -> list[Prefix]:
    """Schedules that end at the last step, followed together: common beginnings once, others in one call for a node."""
    known: dict[tuple[int, ...], Prefix] = {(0,): student.begin()}
    done: list[Prefix] = []
    for node in range(1, student.reference.steps + 1):
        starts = {path[: path.index(node) + 1] for path in wanted if node in path}
        made = [student.make(student.moves(known[start[:-1]], [node])[0]) for start in sorted(starts)]
        if node == student.reference.steps:
            done = made
        elif made:
            known |= {prefix.nodes: prefix for prefix in student.evaluate(made)}
    return done


def _found(student: Student, path: Prefix) -> FoundPath:
    first = student.reference
    errors = tuple(float(np.mean(each)) ** 0.5 for each in path.errors)
    nodes, sampler = path.nodes[:-1], (first.steps, first.guided)
    return FoundPath(first.stage, nodes, path.rows, path.others, path.calls, *sampler, errors, first.rescale_t)


def _front(
    found: dict[int, FoundPath], measure: Callable[[Prefix], float], best: dict[int, Prefix]
) -> dict[int, FoundPath]:
    """Without schedules that one with fewer calls is better than."""
    front: dict[int, FoundPath] = {}
    least = np.inf
    for calls in sorted(found):
        if measure(best[calls]) < least:
            front[calls], least = found[calls], measure(best[calls])
    return front


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
