"""How is the unconditional call of guidance made? Only where the network runs, and guidance asks for that call."""

from __future__ import annotations

from fast_sam3d.sampling.guide.adaptive import Adaptive
from fast_sam3d.sampling.guide.base import Guide, GuidedCalls, Guiding
from fast_sam3d.sampling.guide.both import Both
from fast_sam3d.sampling.guide.reuse import Reuse

__all__ = ["GUIDE", "Adaptive", "Both", "Guide", "GuidedCalls", "Guiding", "Reuse"]

GUIDE: dict[str, type[Guide]] = {
    "adaptive": Adaptive,
    "both": Both,
    "reuse": Reuse,
}
"""Ways by their name in a configuration."""
