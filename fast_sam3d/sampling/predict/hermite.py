"""Extrapolation with Hermite polynomials as terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.predict.newton import differences
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Hermite(Predict):
    """v + sum over i of (difference i / i!) sigma^i H_i(sigma x), with x the distance from the last evaluation.

    H_1(x) = 2x, H_2(x) = 4x^2 - 2: against Taylor's terms the first is scaled by 2 sigma^2, a half at sigma 0.5. So
    most of what this does is to extrapolate half as far.

    Source: HiCache (arXiv 2508.16984), which counts x in steps and takes backward differences per step. Here both are
    in real t, one unit of x being the time between the last two evaluations over `stride`, and differences are
    divided ones; on a uniform grid with a fixed stride that is the paper's formula.

    Args:
        order: 1 or 2.
        sigma: above 0; sqrt(1/2) makes the first term Taylor's.
        stride: steps between two evaluations, as the schedule has it.
    """

    name: ClassVar[str] = "hermite"
    order: int = setting(2, Whole(1, 2))
    sigma: float = setting(0.5, Real(1e-3, 10.0))
    stride: int = setting(3, Whole(1))

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.order + 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        newest = history[0].v
        count = min(self.order + 1, len(history))
        if count == 1:
            return newest
        times = [history[i].t for i in range(count)]
        unit = (times[0] - times[1]) / self.stride
        distance = (t - times[0]) / unit
        slopes = differences(times, [history[i].v for i in range(count)])
        result = slopes[0]
        terms = hermite(self.sigma * distance, count)
        for i in range(1, count):
            # A divided difference is the i-th derivative over i! already.
            result = result + (self.sigma * unit) ** i * terms[i] * slopes[i]
        return result


def hermite(x: float, count: int) -> Sequence[float]:
    """The physicists' Hermite polynomials H_0(x) ... by H_(n+1) = 2x H_n - 2n H_(n-1)."""
    values = [1.0, 2 * x]
    for n in range(1, count - 1):
        values.append(2 * x * values[n] - 2 * n * values[n - 1])
    return values[:count]
