"""The velocity at a step where the network does not run, from the evaluations before it.

Predictions work in real time t. The grid need not be uniform (SAM 3D's sparse-structure grid is t = s / (3 - 2s)),
so a step index is no measure of distance. Differences are taken in float32 or better; results have the velocity's
dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fast_sam3d.solve.check import number, whole
from fast_sam3d.solve.history import History
from fast_sam3d.solve.step import LeafEvaluation


class Predict(Protocol):
    """A predictor of one leaf's velocity."""

    @property
    def depth(self) -> int:
        """Evaluations that the prediction looks back on."""
        ...

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            history: at least one evaluation of the leaf, newest first.
            t: the time to predict at.
            x: the leaf's state at t.

        Returns:
            the velocity, with the shape and dtype of the newest evaluated one.
        """
        ...


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
    dtype = torch.promote_types(newest.dtype, torch.float32)
    differences = [history[i].v.to(dtype) for i in range(count)]
    result = differences[0]
    weight = 1.0
    for level in range(1, count):
        differences = [
            (differences[i] - differences[i + 1]) / (times[i] - times[i + level]) for i in range(count - level)
        ]
        weight *= t - times[level - 1]
        result = result + weight * differences[0]
    return result.to(newest.dtype)


@dataclass(frozen=True, slots=True)
class Hold:
    """The last evaluated velocity."""

    depth: ClassVar[int] = 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return history[0].v


@dataclass(frozen=True, slots=True)
class Taylor:
    """Extrapolation of the velocity along t.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2 with order 1; TaylorSeer (arXiv 2503.06923), final-output form,
    with higher ones. Both difference in the step index; here it is real t, and order 2 uses the interpolating
    parabola, because backward differences taken as derivatives are not exact for one.

    Args:
        order: 0 holds, 1 is linear, 2 quadratic.
    """

    order: int = 1

    def __post_init__(self) -> None:
        whole("order", self.order, 0, 2)

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.order + 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return extrapolate(history, t, self.order)


@dataclass(frozen=True, slots=True)
class Anchored:
    """The linear extrapolation pulled towards the last evaluated velocity: beta v_lin + (1 - beta) v_anchor.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2, for the layout leaves. The public release computes this and
    then overwrites it, so that beta has no effect there.

    Args:
        beta: 0 holds the anchor, 1 is the extrapolation alone; the paper recommends 0.5 to 0.7.
    """

    beta: float = 0.5
    depth: ClassVar[int] = 2

    def __post_init__(self) -> None:
        number("beta", self.beta, 0.0, 1.0)

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        anchor = history[0].v
        if len(history) == 1:
            return anchor
        dtype = torch.promote_types(anchor.dtype, torch.float32)
        slope = (anchor.to(dtype) - history[1].v.to(dtype)) / (history[0].t - history[1].t)
        return (anchor.to(dtype) + self.beta * (t - history[0].t) * slope).to(anchor.dtype)


@dataclass(frozen=True, slots=True)
class Offset:
    """The state plus what the network added to it at the last evaluation: x + (v - x) of then.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.3 for the structured latent; EasyCache (arXiv 2507.02860).
    """

    depth: ClassVar[int] = 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        last = history[0]
        dtype = torch.promote_types(last.v.dtype, torch.float32)
        return (x.to(dtype) + (last.v.to(dtype) - last.x.to(dtype))).to(last.v.dtype)


PREDICT: dict[str, type[Predict]] = {"anchored": Anchored, "hold": Hold, "offset": Offset, "taylor": Taylor}
"""Predictors by their name in a configuration."""
