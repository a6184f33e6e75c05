"""A stride for the end of a solve alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import number, whole
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.when.base import Decide


@dataclass(frozen=True, slots=True)
class Late:
    """Every step, and from a share of the steps on every `stride`-th.

    Source: the last phase of Fast3DCache (arXiv 2511.22533).

    Args:
        begin: share of the steps before the stride begins.
        stride: 1 is every step.
    """

    begin: float = 0.75
    stride: int = 3
    depth: ClassVar[int] = 1

    def __post_init__(self) -> None:
        number("begin", self.begin, 0.0, 1.0)
        whole("stride", self.stride, 1)

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        first = round(self.begin * (len(times) - 1))
        return lambda step, history, x: step < first or (step - first + 1) % self.stride == 0
