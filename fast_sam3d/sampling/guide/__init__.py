"""How is the unconditional call of guidance made? Only where the network runs, and guidance asks for that call."""

from fast_sam3d.sampling.guide.base import Guidance, Guide, Guiding
from fast_sam3d.sampling.guide.calls import GuidedCalls, NetworkSeam, SolveState, guide_call, running_solve
from fast_sam3d.sampling.part import parts_in

__all__ = [
    "GUIDE",
    "Guidance",
    "Guide",
    "GuidedCalls",
    "Guiding",
    "NetworkSeam",
    "SolveState",
    "guide_call",
    "running_solve",
]

GUIDE = parts_in(__name__, Guide)
"""Every guide of this package by its name."""
