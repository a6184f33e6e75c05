"""Linear extrapolation blended with the last velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Real, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Anchored(Predict):
    """Linear extrapolation blended with the last evaluated velocity: beta v_lin + (1 - beta) v_anchor.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2, for the layout leaves. The public release computes this and
    then overwrites it, so that beta has no effect there.

    Args:
        beta: 0 holds the anchor, 1 is the extrapolation alone; the paper recommends 0.5 to 0.7.
    """

    name: ClassVar[str] = "anchored"
    same_for_all_objects: ClassVar[bool] = True
    beta: float = setting(0.5, Real(0.0, 1.0))
    depth: ClassVar[int] = 2

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        anchor = history[0].v
        if len(history) == 1:
            return anchor
        slope = (anchor - history[1].v) / (history[0].t - history[1].t)
        return anchor + self.beta * (t - history[0].t) * slope
