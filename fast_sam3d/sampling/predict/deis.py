"""DEIS: a multistep solver that uses the linear form of the flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.predict.newton import differences, monomials
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Deis(Integrate):
    """Adams-Bashforth for the data that the network predicts, with the rest of the equation solved exactly.

    On the straight path x = (1 - t) noise + t data the velocity predicts the data: D = x + (1 - t) v. In terms
    of D the equation is x' = (D - x) / (1 - t), linear in x, whose solution over a step from a to b is

        x_b = (1 - b) (x_a / (1 - a) + integral of D(s) / (1 - s)^2 ds).

    The polynomial in t through the last `order` values of D goes in place of D(s); the integral has a closed form, and
    what looks singular at t = 1 cancels. Order 1 is Euler. As with `AdamsBashforth`, the steps between two evaluations
    together are one step of the solver.

    Source: DEIS (arXiv 2204.13902), "tAB", for the prediction of noise; here for that of data as in DPM-Solver++
    (arXiv 2211.01095), because that one stays finite at t = 0, where a solve starts. DPM-Solver++(2M) extrapolates in
    log(t / (1 - t)), which is infinite at both ends of the grid, and must know where the step will end.

    Args:
        order: 1 to 3.
    """

    name: ClassVar[str] = "deis"
    order: int = setting(2, Whole(1, 3))
    corrects: ClassVar[bool] = True

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.order

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """See `Integrate`."""
        newest = history[0].v
        count = min(self.order, len(history))
        if start >= 1 or (count == 1 and start == history[0].t):
            return newest
        times = [history[i].t for i in range(count)]
        data = [evaluation.x + (1 - evaluation.t) * evaluation.v for evaluation in list(history)[:count]]
        # x_b - x_a = (b - a) / (1 - a) (mean of D - x_a), where the mean of u^p is weighted with 1 / (1 - s)^2.
        mean = torch.zeros_like(data[0])
        for slope, powers in zip(differences(times, data), monomials(times), strict=True):
            weight = sum(c * weighted_power(start, end, times[0], i) for i, c in enumerate(powers))
            mean = mean + weight * slope
        return (mean - x) / (1 - start)


def weighted_power(start: float, end: float, origin: float, power: int) -> float:
    """Mean of (s - origin)^power over start..end with the weight 1 / (1 - s)^2; its limit where that is infinite.

    The weights sum to (end - start) / ((1 - start) (1 - end)).
    """
    if power == 0:
        return 1.0
    if end == start:
        return (start - origin) ** power
    if end == 1:
        return (1 - origin) ** power
    # With s = 1 - w, u = c - w where c = 1 - origin, and each term of (c - w)^p / w^2 has a simple integral.
    c, low, high = 1 - origin, 1 - end, 1 - start
    total = 0.0
    for i in range(power + 1):
        factor = math.comb(power, i) * c ** (power - i) * (-1) ** i
        if i == 1:
            total += factor * math.log(high / low)
        else:
            total += factor * (high ** (i - 1) - low ** (i - 1)) / (i - 1)
    return total * high * low / (high - low)
