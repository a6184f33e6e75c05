"""Extrapolation of the velocity in real time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.predict.newton import differences
from fast_sam3d.sampling.step import LeafEvaluation


def extrapolate(history: History[LeafEvaluation], t: float, order: int) -> Tensor:
    """The velocity at `t` of the polynomial through the newest `order` + 1 evaluations (fewer while there are fewer).

    Newton's form: v0 + v[t0,t1] (t - t0) + v[t0,t1,t2] (t - t0)(t - t1), with divided differences, which is exact for
    polynomials of that order on any grid.

    Args, Returns: as `Predict`; order 0 returns the newest velocity itself.
    """
    newest = history[0].v
    count = min(order + 1, len(history))
    if count == 1:
        return newest
    times = [history[i].t for i in range(count)]
    slopes = differences(times, [history[i].v for i in range(count)])
    result, weight = slopes[0], 1.0
    for slope, time in zip(slopes[1:], times, strict=False):
        weight *= t - time
        result = result + weight * slope
    return result


@dataclass(frozen=True, slots=True)
class Taylor(Predict):
    """Extrapolation of the velocity along t.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2 with order 1; TaylorSeer (arXiv 2503.06923), final-output form,
    with higher ones. Both difference in the step index; here it is real t, and order 2 uses the interpolating
    parabola, because backward differences taken as derivatives are not exact for one.

    Args:
        order: 0 holds, 1 is linear, 2 quadratic.
    """

    name: ClassVar[str] = "taylor"
    same_for_all_objects: ClassVar[bool] = True
    order: int = setting(1, Whole(0, 2))

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.order + 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return extrapolate(history, t, self.order)
