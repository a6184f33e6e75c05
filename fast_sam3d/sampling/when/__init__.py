"""When does the network run? Each class answers for every step of a solve.

The driver always evaluates the first step (nothing is known yet) and the last one (the result takes its error
undamped), whatever is answered here.
"""

from __future__ import annotations

from fast_sam3d.sampling.when.always import Always
from fast_sam3d.sampling.when.base import Decide, When
from fast_sam3d.sampling.when.budget import Budget
from fast_sam3d.sampling.when.guided_stride import GuidedStride
from fast_sam3d.sampling.when.late import Late
from fast_sam3d.sampling.when.magnitude import Magnitude
from fast_sam3d.sampling.when.stride import Stride
from fast_sam3d.sampling.when.widening import Widening

__all__ = ["WHEN", "Always", "Budget", "Decide", "GuidedStride", "Late", "Magnitude", "Stride", "When", "Widening"]

WHEN: dict[str, type[When]] = {
    "always": Always,
    "budget": Budget,
    "guided_stride": GuidedStride,
    "late": Late,
    "magnitude": Magnitude,
    "stride": Stride,
    "widening": Widening,
}
"""Schedules by their name in a configuration."""
