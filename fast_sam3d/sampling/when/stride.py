"""A fixed stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Stride(When):
    """The first `warmup` steps, then every `stride`-th.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.2 with stride 3 and warm-up 2: 25 steps run at
    0, 1, 4, 7, 10, 13, 16, 19, 22 and 24.

    Args:
        stride: 1 is every step.
        warmup: steps evaluated first, at least 1.
    """

    name: ClassVar[str] = "stride"
    same_for_all_objects: ClassVar[bool] = True
    stride: int = setting(3, Whole(1))
    warmup: int = setting(2, Whole(1))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        return lambda step, history, x: step < self.warmup or (step - self.warmup + 1) % self.stride == 0
