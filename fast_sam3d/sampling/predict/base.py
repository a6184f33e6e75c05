"""What a predictor is."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import LeafEvaluation


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


@runtime_checkable
class Integrate(Predict, Protocol):
    """A predictor that knows the way over a whole step, where the others give the velocity at its start.

    `corrects`: the network's own velocity, too, gives way to the mean over its step; False: evaluated steps are plain
    Euler steps.
    """

    corrects: ClassVar[bool]

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """The mean velocity over a step.

        Args:
            history: at least one evaluation of the leaf, newest first; the newest is at `start` where the network ran.
            start, end: of the step, in t.
            x: the leaf's state at `start`.

        Returns:
            (state at end - x) / (end - start), with the shape and dtype of the newest evaluated velocity.
        """
        ...
