"""When does the network run? Each class decides for every step of a solve.

The driver always evaluates the first step (nothing is known yet) and, unless a class sets `evaluates_last` to False,
the last one (the result takes its error undamped).
"""

from fast_sam3d.sampling.part import parts_in
from fast_sam3d.sampling.when.base import Decide, When

__all__ = ["WHEN", "Decide", "When"]

WHEN = parts_in(__name__, When)
"""Every schedule of this package by its name."""
