"""The interface of schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.part import Part
from fast_sam3d.sampling.step import Evaluation, Leaves

Decide: TypeAlias = Callable[[int, History[Evaluation], Leaves], bool]


class When(Part):
    """A schedule: the steps at which the network runs. The state of a solve is in `start`'s result.

    Attributes:
        evaluates_last: the last step is evaluated without asking the schedule, as the first is.
    """

    __slots__ = ()
    evaluates_last: ClassVar[bool] = True

    @property
    def evaluations(self) -> int | None:
        """How often the network runs in a solve at most; None: unknown."""
        return None

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """Begin a solve.

        Args:
            times: [steps + 1] the grid, from its first to its last time.
            guidance: the pipeline's in this solve; None where it has none.

        Returns:
            (step, history, state at the step) -> whether the network runs; tensors are in float32 or better. Called
            once for every step after the first, in order, but not for the last if `evaluates_last`.
        """
        raise NotImplementedError
