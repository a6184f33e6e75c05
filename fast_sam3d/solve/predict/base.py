"""What a predictor is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

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
