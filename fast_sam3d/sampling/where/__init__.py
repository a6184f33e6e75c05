"""Where does the network run, on which tokens? The others keep their last velocity at that step.

The driver runs the first and the last step of a solve on all tokens, whatever a class returns.
"""

from fast_sam3d.sampling.part import parts_in
from fast_sam3d.sampling.where.base import Choose, Held, Merged, Where

__all__ = ["WHERE", "Choose", "Held", "Merged", "Where"]

WHERE = parts_in(__name__, Where)
"""Every choice of tokens of this package by its name."""
