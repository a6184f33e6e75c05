"""What a schedule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves

Decide: TypeAlias = Callable[[int, History[Evaluation], Leaves], bool]


class When(Protocol):
    """Settings of a schedule; what it must remember during a solve lives in the function that `start` returns."""

    @property
    def depth(self) -> int:
        """Evaluations that the decision looks back on."""
        ...

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """Begin a solve.

        Args:
            times: [steps + 1] the grid, from its first to its last time.
            guidance: the pipeline's in this solve; None where it has none.

        Returns:
            (step, history, state at the step) -> whether the network runs; called once for every step between the
            first and the last, in order.
        """
        ...
