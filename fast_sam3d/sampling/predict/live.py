"""The layout's velocity is evaluated, not predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import OneOf, Real, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.anchored import Anchored
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Live(Predict):
    """The network evaluates the layout's tokens alone, against the shape's keys and values of the last evaluation.

    See `fast_sam3d.sampling.live`. Shape tokens never attend to layout tokens, so the shape does not change.

    Args:
        ahead: how far keys and values are extrapolated, in units of the way that they came since the evaluation before;
            0: no extrapolation. The first leaf's counts for all.
        fallback: where the network does not allow that: `refuse`, or predict by `anchored` or `hold`.
    """

    name: ClassVar[str] = "live"
    same_for_all_objects: ClassVar[bool] = True
    only: ClassVar[str | None] = "layout"
    depth: ClassVar[int] = 2
    ahead: float = setting(0.4, Real(0.0, 0.9))
    fallback: str = setting("refuse", OneOf(("refuse", "anchored", "hold")))

    @property
    def instead(self) -> Predict:
        """The predictor where the layout cannot be evaluated alone."""
        return Anchored() if self.fallback == "anchored" else Hold()

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`: the prediction before any keys and values are kept."""
        return self.instead(history, t, x)
