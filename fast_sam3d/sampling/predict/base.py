"""The interface of predictors."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.part import Part
from fast_sam3d.sampling.step import LeafEvaluation


class Predict(Part):
    """A predictor of one leaf's velocity.

    Attributes:
        only: the group of leaves that it is for, None for any.
    """

    __slots__ = ()
    only: ClassVar[str | None] = None

    @property
    def rows(self) -> int:
        """Evaluations of a solve, from the first on, that it has settings for."""
        return 0

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            history: at least one evaluation of the leaf, newest first, in float32 or better.
            t: the time to predict at.
            x: the leaf's state at t.

        Returns:
            the velocity, with the shape of the newest evaluated one; it is then cast to the network's type.
        """
        raise NotImplementedError


class Integrate(Predict):
    """A predictor of the mean velocity over a whole step, where the others predict the velocity at its start.

    Attributes:
        corrects: the mean over the step replaces the network's own velocity, too; False: evaluated steps are plain
            Euler steps.
    """

    __slots__ = ()
    corrects: ClassVar[bool] = False

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return self.over(history, t, t, x)

    def over(self, history: History[LeafEvaluation], start: float, end: float, x: Tensor) -> Tensor:
        """The mean velocity over a step.

        Args:
            history: at least one evaluation of the leaf, newest first, in float32 or better; the newest is at `start`
                where the network ran.
            start, end: of the step, in t.
            x: the leaf's state at `start`.

        Returns:
            (state at end - x) / (end - start), with the shape of the newest evaluated velocity; it is then cast to the
            network's type.
        """
        raise NotImplementedError
