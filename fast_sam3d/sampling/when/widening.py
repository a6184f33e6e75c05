"""A schedule with growing gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Widening(When):
    """The first `warmup` steps, then gaps that grow: every evaluation adds `growth` to the distance to the next.

    Source: Spectrum (arXiv 2603.01623): from 2 steps on by 0.75 (3.5x fewer calls of 50) or by 3 (5x).

    Args:
        first: steps from the last of the warm-up to the next evaluation, at least 1; fractions count, and the distance
            is rounded down.
        growth: steps, at least 0.
        warmup: steps evaluated first, at least 1.
    """

    name: ClassVar[str] = "widening"
    first: float = setting(2.0, Real(1.0, 1000.0))
    growth: float = setting(0.75, Real(0.0, 1000.0))
    warmup: int = setting(5, Whole(1))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        gap, following = self.first, self.warmup - 1 + int(self.first)

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            nonlocal gap, following
            if step < self.warmup:
                return True
            if step < following:
                return False
            gap += self.growth
            following = step + int(gap)
            return True

        return decide
