"""A multistep forecast of the velocity, calibrated by a trapezoidal average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.step import LeafEvaluation

Point = tuple[float, list[float]]
"""A time, and a velocity as weights of the evaluated ones."""


@dataclass(frozen=True, slots=True)
class Foca(Predict):
    """The velocity as an ODE over the steps: v + h (a + b) / 2 from one step to the next, a distance h in t away.

    a is the slope between the last two evaluations. b is the slope at the new step, of the paper's explicit BDF2
    forecast 4/3 v - 1/3 v_before + 2/3 h b: by the formula that gives the forecast, it is the slope between the two
    newest velocities, evaluated or predicted. So predictions build on each other, and this is linear extrapolation
    along a plus a part that halves from step to step: after an evaluation, what the last prediction was wrong by.

    Source: FoCa (arXiv 2508.16211), equations 7 and 8, on the final velocity in place of each block's features, and
    with real t in place of steps. Predictions are linear in the evaluations, so the recursion runs on their weights.
    """

    name: ClassVar[str] = "foca"
    same_for_all_objects: ClassVar[bool] = True
    depth: ClassVar[int] = 1000
    """As many as a solve can have: each prediction depends on those before it."""

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        weights = recursion([evaluation.t for evaluation in reversed(list(history))], history.times, t)
        terms = [weight * e.v for weight, e in zip(reversed(weights), history, strict=True) if weight]
        return sum(terms[1:], terms[0])


def recursion(evaluated: Sequence[float], times: Sequence[float], t: float) -> list[float]:
    """The velocity at t as weights of the evaluated ones.

    Args:
        evaluated: [n] times in ascending order.
        times: the grid of the solve.
        t: beyond the last of them.

    Returns:
        [n] weights that sum to 1.
    """
    points: list[Point] = []  # of all steps so far, and of the evaluated ones
    anchors: list[Point] = []
    for time in sorted({*evaluated, *(s for s in times if evaluated[0] < s < t), t}):
        if time in evaluated:
            anchors.append((time, [float(time == e) for e in evaluated]))
            points.append(anchors[-1])
            continue
        newest, v = points[-1]
        bends = zip(v, slope(anchors), slope(points), strict=True)
        points.append((time, [weight + (time - newest) * (a + b) / 2 for weight, a, b in bends]))
    return points[-1][1]


def slope(points: Sequence[Point]) -> list[float]:
    """Of the line through the last two points; 0 with fewer."""
    if len(points) < 2:
        return [0.0] * len(points[0][1])
    (t0, before), (t1, after) = points[-2:]
    return [(b - a) / (t1 - t0) for a, b in zip(before, after, strict=True)]
