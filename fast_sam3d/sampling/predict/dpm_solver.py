"""DPM-Solver++ and UniPC, from where guidance has ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Settings
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class DpmSolver(Integrate):
    """DPM-Solver++ of the second order, multistep, in the data that the velocity points at: D = x + (1 - t) v.

    In l = log(t / (1 - t)), half the log of the signal-to-noise ratio on the straight path x = (1 - t) noise + t data,
    a step from e to b of length h after one of length g goes to

        x_b = (1 - b) / (1 - e) x_e + b (1 - exp(-h)) (D_e + h / 2g (D_e - D_before)).

    The state moves along this curve from one evaluation to the next, so that it arrives where the solver does. The
    velocity jumps where guidance ends, and l is infinite at t = 0. So evaluations under guidance enter no difference:
    up to its end and a step beyond, and over the step to t = 1, the order is 1, which is Euler's method.

    Source: DPM-Solver++ (arXiv 2211.01095), algorithm 2, "2M"; with `corrector` UniPC of order 2 (arXiv 2302.04867)
    with B(h) = exp(h) - 1, whose predictor is the same. An evaluation then first moves its own state, to where the
    step before would have led if it had been known; D stays as it was evaluated.

    Args:
        corrector: UniPC.
    """

    name: ClassVar[str] = "dpm_solver"
    depth: ClassVar[int] = 3
    corrects: ClassVar[bool] = True
    same_for_all_objects: ClassVar[bool] = True
    corrector: bool = False

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        given: Any = self.corrector
        if not isinstance(given, bool):
            raise ConfigError(f"corrector is {given!r}: give true or false")

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """See `Integrate`."""
        last = history[0]
        past = usable(history)
        origin = last.x
        if self.corrector and len(past) > 1:
            origin = origin + correction(past)
        elif len(past) < 2:
            return last.v
        if end == start:
            return last.v
        return (step(past, end, origin) - x) / (end - start)


def usable(history: History[LeafEvaluation]) -> list[LeafEvaluation]:
    """The newest evaluations without guidance and after t = 0, or only the newest if that one is not so."""
    guidance = history.guidance
    past = []
    for evaluation in history:
        if evaluation.t <= 0 or (guidance is not None and guidance.acts_at(evaluation.t)):
            break
        past.append(evaluation)
    return past or [history[0]]


def data(evaluation: LeafEvaluation) -> Tensor:
    """D."""
    return evaluation.x + (1 - evaluation.t) * evaluation.v


def log_ratio(t: float) -> float:
    """l, for t in 0 to 1 without the ends."""
    return math.log(t / (1 - t))


def step(past: list[LeafEvaluation], end: float, x: Tensor) -> Tensor:
    """The state at `end`, from x at the newest of the evaluations (newest first)."""
    last = past[0]
    if end == 1:
        return data(last)
    h = log_ratio(end) - log_ratio(last.t)
    target = data(last)
    if len(past) > 1:
        ratio = h / (log_ratio(last.t) - log_ratio(past[1].t))
        target = target + ratio / 2 * (data(last) - data(past[1]))
    return (1 - end) / (1 - last.t) * x - end * math.expm1(-h) * target


def correction(past: list[LeafEvaluation]) -> Tensor:
    """UniPC's corrector: what is to be added to the state at the newest of two or three evaluations."""
    now, before = past[:2]
    h = log_ratio(now.t) - log_ratio(before.t)
    change = data(now) - data(before)
    weight = -now.t * math.expm1(-h)
    if len(past) < 3:
        return weight / 2 * change  # the step here was of the first order
    ratio = (log_ratio(before.t) - log_ratio(past[2].t)) / h
    slope = (data(before) - data(past[2])) / ratio
    # The weights a and b make a slope + b change exact for a parabola, in B(h) as the unit.
    first = math.expm1(-h) / -h - 1
    one, two = first / math.expm1(-h), 2 * (first / -h - 0.5) / math.expm1(-h)
    a = (one - two) / (1 + ratio)
    return weight * ((a - 0.5) * slope + (one - a) * change)  # the step here had half of the slope
