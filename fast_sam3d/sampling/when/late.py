"""A stride for the last steps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Late(When):
    """Every step, and from a share of the steps on every `stride`-th.

    Source: the last phase of Fast3DCache (arXiv 2511.22533).

    Args:
        begin: share of the steps before the stride begins.
        stride: 1 is every step.
    """

    name: ClassVar[str] = "late"
    begin: float = setting(0.75, Real(0.0, 1.0))
    stride: int = setting(3, Whole(1))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        first = round(self.begin * (len(times) - 1))
        return lambda step, history, x: step < first or (step - first + 1) % self.stride == 0
