"""Pictures whose EXIF orientation says to display them turned, against masks that are turned or not.

Cameras store some pictures lying and say so in their metadata. Some tools that draw masks follow it and some do not.
Where the sizes of picture and mask do not decide it, the mask's outline does: it follows edges of the picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.inputs.pictures import Picture, turned

__all__ = ["check_turn", "fitting_mask", "fitting_picture"]

log = logging.getLogger(__name__)

CLEAR = 1.3
"""Ratio of the edges under the outline from which on they decide."""
_SIDE = 256  # pixels, of the reduced pictures whose edges are compared


def fitting_picture(
    picture: Picture, path: Path, masks: Iterable[tuple[NDArray[np.bool_], int]], notices: list[str]
) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of a picture, upright or as stored, whichever its masks were drawn on.

    Args:
        picture: of the file `path`.
        masks: [H, W] of some of its objects, each with the EXIF orientation of its own file.
        notices: receives a sentence where the sizes alone do not decide.
    """
    if picture.orientation == 1:
        return picture.rgb
    upright = picture.upright.rgb
    stored_size, upright_size = picture.rgb.shape[:2], upright.shape[:2]
    stored_edges, upright_edges = _edges(picture.rgb, stored_size), _edges(upright, upright_size)
    found = {"stored": 0.0, "upright": 0.0}
    for mask, own in masks:
        if own == picture.orientation and mask.shape == stored_size:  # both are turned alike
            return picture.rgb
        shapes = [turned(mask, way) for way in {1, own}]
        fits = [max((_agreement(edges, shape) for shape in shapes if shape.shape == size), default=0.0)
                for size, edges in ((stored_size, stored_edges), (upright_size, upright_edges))]  # fmt: skip
        found["stored"] += fits[0]
        found["upright"] += fits[1]
    if stored_size != upright_size:
        if found["upright"] > found["stored"] == 0:
            log.info("%s: rotated by its EXIF orientation, to match the mask", path)
        return upright if found["upright"] > found["stored"] else picture.rgb
    what = f"{path.name} is stored turned or mirrored (EXIF orientation {picture.orientation})"
    if found["upright"] > CLEAR * found["stored"]:
        notices.append(f"{what} and read upright, because the mask fits it that way")
        return upright
    clear = found["stored"] > CLEAR * found["upright"]
    why = "because the mask fits it that way" if clear else "and whether the mask is upright cannot be seen from it"
    hint = "" if clear else ": if it is, save the picture upright"
    notices.append(f"{what} and read as stored, {why}{hint}")
    return picture.rgb


def fitting_mask(
    mask: NDArray[np.bool_],
    orientation: int,
    rgb: NDArray[np.uint8],
    size: tuple[int, int],
    path: Path,
    notices: list[str],
) -> NDArray[np.bool_]:
    """A mask [H, W] whose own file may be stored turned, as it fits its picture.

    Args:
        rgb: [h, w, 3] of the picture, also reduced; `size` is its (height, width).
    """
    if orientation == 1:
        return mask
    upright = turned(mask, orientation)
    if mask.shape != size or upright.shape != size:
        return upright if upright.shape == size else mask
    edges = _edges(rgb, size)
    better = _agreement(edges, upright) > CLEAR * _agreement(edges, mask)
    how = "turned upright, because it fits" if better else "read as stored, like"
    notices.append(f"the mask {path.name} has the EXIF orientation {orientation} and is {how} the picture")
    return upright if better else mask


def check_turn(picture: Picture, rgb: NDArray[np.uint8], pointmap: Path, notices: list[str]) -> None:
    """A notice where a picture that is read upright has a pointmap, which may be of the stored pixels."""
    if picture.orientation != 1 and rgb is not picture.rgb:
        notices.append(
            f"{pointmap.name} is taken to be of the upright picture, although the picture is stored turned: if it is "
            "not, create it again or use --no_pointmap"
        )


def _edges(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Strongest change of a channel between neighbours, in a picture of (height, width) reduced to `_SIDE`."""
    from PIL import Image

    small = np.asarray(Image.fromarray(rgb).resize(_reduced(size), Image.Resampling.BOX), np.float32)
    edges = np.zeros(small.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.abs(np.diff(small, axis=axis)).max(axis=2)
        for part in (slice(None, -1), slice(1, None)):
            view = edges[part] if axis == 0 else edges[:, part]
            np.maximum(view, step, out=view)
    return edges


def _agreement(edges: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Mean of the edges under a mask's outline; never 0, so that a fitting size counts."""
    from PIL import Image

    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.asarray(grey.resize(_reduced(mask.shape), Image.Resampling.BOX)) >= 128
    outline = np.zeros(small.shape, bool)
    outline[:, 1:] |= small[:, 1:] != small[:, :-1]
    outline[1:] |= small[1:] != small[:-1]
    return float(edges[outline].mean()) + 1.0 if outline.any() else 1.0


def _reduced(size: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of a reduced picture."""
    factor = min(_SIDE / max(size), 1.0)
    return max(round(size[1] * factor), 1), max(round(size[0] * factor), 1)
