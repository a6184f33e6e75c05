"""The mask that clicks or a box select, where no mask is given."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.settings import InputConfig

__all__ = ["selected"]

log = logging.getLogger(__name__)


def selected(image: NDArray[np.uint8], asked: InputConfig) -> tuple[NDArray[np.bool_], str]:
    """The mask [H, W] of what is marked in an upright picture [H, W, 3], and how the results are named after it.

    Raises:
        InputError: a mark is outside of the picture, or nothing is selected.
    """
    from fast_sam3d.segment.select import Click, Marks, Selector

    clicks = [Click(x, y) for x, y in asked.clicks] + [Click(x, y, False) for x, y in asked.background]
    found = Selector(image).select(Marks(clicks, asked.box))
    where = ("click", *asked.clicks[0]) if asked.clicks else ("box", *(asked.box or ()))
    log.info("selected %.1f %% of the picture, in %.2f s", 100 * found.mask.mean(), found.seconds)
    return found.mask, "_".join(f"{part:g}" if isinstance(part, float) else part for part in where)
