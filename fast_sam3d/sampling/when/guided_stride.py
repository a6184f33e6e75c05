"""A stride that restarts where guidance ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class GuidedStride(When):
    """A stride while guidance is on, an evaluation at the first step after it, and another stride from there.

    The velocity jumps where guidance ends: (1 + s) c - s u before, c after. One that is held or extrapolated across
    that place is wrong by the jump. And a guided step costs two calls, a later one a single call. Without guidance, or
    where it never ends, this is `Stride`. With 19 of 25 steps guided, as published, it is no better than fewer steps.

    Source: our own.

    Args:
        stride: while guidance is on; 1 is every step.
        late: after it.
        end: last guided time, 0 to 1; None: as the pipeline's guidance interval has it.
        warmup: steps evaluated first, at least 1.
    """

    name: ClassVar[str] = "guided_stride"
    same_for_all_objects: ClassVar[bool] = True
    stride: int = setting(4, Whole(1))
    late: int = setting(4, Whole(1))
    end: float | None = setting(None)
    warmup: int = setting(4, Whole(1))

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.end is not None:
            check("end", self.end, Real(0.0, 1.0))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        if self.end is not None:
            guidance = Guidance(1.0, ((0.0, self.end),), time_scale=1.0)
        guided = [step for step, t in enumerate(times) if guidance is not None and guidance.acts_at(t)]
        first = guided[-1] + 1 if guided else len(times)

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            if step < self.warmup:
                return True
            if step >= first:
                return (step - first) % self.late == 0
            return (step - self.warmup + 1) % self.stride == 0

        return decide
