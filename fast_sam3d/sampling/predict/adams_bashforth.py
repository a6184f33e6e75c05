"""The Adams-Bashforth multistep solver on the evaluated steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.predict.newton import differences, monomials
from fast_sam3d.sampling.predict.taylor import extrapolate
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class AdamsBashforth(Integrate):
    """x moves by the integral of the polynomial through the last `order` evaluated velocities.

    No cache at all: the steps between two evaluations together are one step of the solver from the one to the other,
    on the grid of the evaluated times, uniform or not. So this is the textbook result for as many network
    calls. With the network at every step it is the solver on the grid itself, which is not Euler's result.

    Source: Bashforth and Adams (1883), with variable steps as in Hairer, Norsett and Wanner, Solving Ordinary
    Differential Equations I, section III.5. The first steps have fewer evaluations, and so a lower order.

    Args:
        order: 1 is Euler on the evaluated grid, 2 to 4.
    """

    name: ClassVar[str] = "adams_bashforth"
    order: int = setting(2, Whole(1, 4))
    corrects: ClassVar[bool] = True

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.order

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return extrapolate(history, t, self.order - 1)

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """See `Integrate`."""
        newest = history[0].v
        count = min(self.order, len(history))
        if count == 1:
            return newest
        times = [history[i].t for i in range(count)]
        slopes = differences(times, [history[i].v for i in range(count)])
        a, b = start - times[0], end - times[0]
        mean = slopes[0]
        for slope, powers in zip(slopes[1:], monomials(times)[1:], strict=True):
            mean = mean + sum(c * mean_power(a, b, i) for i, c in enumerate(powers)) * slope
        return mean


def mean_power(a: float, b: float, power: int) -> float:
    """Mean of u**power over a..b: (a^p + a^(p-1) b + ... + b^p) / (p + 1), which subtracts nothing."""
    return sum(a**i * b ** (power - i) for i in range(power + 1)) / (power + 1)
