"""How is the unconditional call of guidance made? Only where the network runs, and guidance asks for that call."""

from __future__ import annotations

from fast_sam3d.sampling.guide.adaptive import Adaptive
from fast_sam3d.sampling.guide.base import Guidance, Guide, Guiding
from fast_sam3d.sampling.guide.both import Both
from fast_sam3d.sampling.guide.calls import GuidedCalls, NetworkSeam, SolveState, guide_call, running_solve
from fast_sam3d.sampling.guide.reuse import Reuse

__all__ = [
    "GUIDE",
    "Adaptive",
    "Both",
    "Guidance",
    "Guide",
    "GuidedCalls",
    "Guiding",
    "NetworkSeam",
    "Reuse",
    "SolveState",
    "guide_call",
    "running_solve",
]

GUIDE: dict[str, type[Guide]] = {
    "adaptive": Adaptive,
    "both": Both,
    "reuse": Reuse,
}
"""Ways by their name in a configuration."""
