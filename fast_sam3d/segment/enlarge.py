"""A mask of a reduced picture at full size, its border drawn along the picture's own edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["enlarge"]

WINDOW = 5
"""Reduced pixels a side over which the colours of object and background are taken."""
BAND = 1
"""Reduced pixels on each side of the border that are decided at full size."""


def enlarge(image: NDArray[np.uint8], small: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask [h, w] of a reduced picture as [H, W].

    Pixels beside the border go to the side whose mean colour nearby they are closer to, weighted by the distance to the
    border where both sides look alike.

    Args:
        image: [H, W, 3], the full picture.
        small: [h, w, 3], the reduced one.
    """
    from PIL import Image

    height, width = image.shape[:2]
    if mask.shape == (height, width) or mask.all() or not mask.any():
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    soft = Image.fromarray(mask.astype(np.uint8) * 255)
    large = np.asarray(soft.resize((width, height), Image.Resampling.BILINEAR))
    cross = np.ones((2 * BAND + 1,) * 2, bool)
    unsure = ndimage.binary_dilation(mask, cross) & ~ndimage.binary_erosion(mask, cross, border_value=1)
    ours, theirs = _nearby(small, mask & ~unsure, mask), _nearby(small, ~mask & ~unsure, ~mask)
    result = large >= 128
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    found_rows = np.flatnonzero(unsure.any(1)[rows])
    if not len(found_rows):
        return result
    for top in range(found_rows[0], found_rows[-1] + 1, 256):  # strips bound the memory
        stop = min(top + 256, found_rows[-1] + 1)
        y, x = np.nonzero(unsure[rows[top:stop]][:, columns])
        if not len(y):
            continue
        y += top
        colour = image[y, x].astype(np.float32)
        a, b = ours[rows[y], columns[x]], theirs[rows[y], columns[x]]
        apart = a - b
        squared = (apart**2).sum(-1)
        share = ((colour - b) * apart).sum(-1) / np.maximum(squared, 1e-3)  # 0: background's colour, 1: object's
        trust = squared / (squared + 20.0**2)
        place = large[y, x] / 255.0
        result[y, x] = trust * np.clip(share, 0, 1) + (1 - trust) * place >= 0.5
    return result


def _nearby(small: NDArray[np.uint8], sure: NDArray[np.bool_], side: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[h, w, 3] mean colour of the sure pixels around each pixel; of all of that side where none are near."""
    weight = sure.astype(np.float32) + 1e-3 * side
    total = ndimage.uniform_filter(weight, WINDOW)
    whole = [ndimage.uniform_filter(small[..., c] * weight, WINDOW) for c in range(3)]
    mean = small[side].mean(0, dtype=np.float32)
    known = total > 1e-6
    return np.stack(
        [np.where(known, part / np.maximum(total, 1e-6), mean[c]) for c, part in enumerate(whole)], -1
    ).astype(np.float32)
