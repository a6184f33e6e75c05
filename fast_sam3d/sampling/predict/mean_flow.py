"""The mean velocity since the last evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Integrate
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class MeanFlow(Integrate):
    """The mean velocity from the last evaluation e to a later s is v_e + (s - e) J with J = (v_e - u) / (e - w).

    u is the mean velocity with which the state came from w to e, so J is the derivative of the mean velocity
    along the flow. Skipped steps are the differences of that path; evaluated ones are plain Euler steps.

    Source: MeanCache (arXiv 2601.19961). Its schedule is a shortest path through errors that were measured beforehand
    for a model (`fast_sam3d.tune.mean_cache`); here any schedule can be used.

    Args:
        window: evaluations from w to e; with stride 3 two of them are the paper's six steps.
    """

    name: ClassVar[str] = "mean_flow"
    window: int = setting(2, Whole(1))

    @property
    def depth(self) -> int:
        """See `Predict`."""
        return self.window + 1

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """See `Integrate`."""
        last = history[0]
        if len(history) == 1:
            return last.v
        first = history[min(self.window, len(history) - 1)]
        mean = (last.x - first.x) / (last.t - first.t)
        bend = (last.v - mean) / (last.t - first.t)
        # ((end - e) mean to end - (start - e) mean to start) / (end - start)
        return last.v + (start - last.t + end - last.t) * bend
