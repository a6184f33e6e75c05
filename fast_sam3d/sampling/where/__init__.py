"""Where does the network run, on which tokens? The others keep their last velocity at that step.

The driver runs the first and the last step of a solve on all tokens, whatever is answered here.
"""

from __future__ import annotations

from fast_sam3d.sampling.where.base import Choose, Held, Merged, Where
from fast_sam3d.sampling.where.everywhere import All
from fast_sam3d.sampling.where.random_cells import RandomCells
from fast_sam3d.sampling.where.saliency import Saliency, top_cells, unit
from fast_sam3d.sampling.where.stability import Stability
from fast_sam3d.sampling.where.tome import MergeCells

__all__ = [
    "WHERE",
    "All",
    "Choose",
    "Held",
    "MergeCells",
    "Merged",
    "RandomCells",
    "Saliency",
    "Stability",
    "Where",
    "top_cells",
    "unit",
]

WHERE: dict[str, type[Where]] = {
    "all": All,
    "random": RandomCells,
    "saliency": Saliency,
    "stability": Stability,
    "tome": MergeCells,
}
"""Choices by their name in a configuration."""
