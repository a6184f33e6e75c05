"""A stride that knows where guidance ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import number, whole
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide


@dataclass(frozen=True, slots=True)
class GuidedStride:
    """A stride while guidance is on, an evaluation at the first step without it, and a stride from there.

    The velocity jumps where guidance ends: (1 + s) c - s u before, c after. One that is kept or extrapolated over that
    place is wrong by the jump. And a step under guidance costs two calls, one after it a single call.

    Source: our own.

    Args:
        stride: while guidance is on; 1 is every step.
        late: after it.
        end: time of its end, 0 to 1; SAM 3D's interval ends at 500 of 1000.
        warmup: steps evaluated first, at least 1.
    """

    stride: int = 4
    late: int = 4
    end: float = 0.5
    warmup: int = 4
    depth: ClassVar[int] = 1

    def __post_init__(self) -> None:
        whole("stride", self.stride, 1)
        whole("late", self.late, 1)
        number("end", self.end, 0.0, 1.0)
        whole("warmup", self.warmup, 1)

    def start(self, times: Sequence[float]) -> Decide:
        """See `When`."""
        first = next((step for step, t in enumerate(times) if t > self.end), len(times))

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            if step < self.warmup:
                return True
            if step >= first:
                return (step - first) % self.late == 0
            return (step - self.warmup + 1) % self.stride == 0

        return decide
