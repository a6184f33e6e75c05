"""Measures `fast_sam3d.segment` against the masks of pictures, for docs/selecting.md.

python docs/figures/selecting.py FOLDER [FOLDER ...]   each with image.png and masks 0.png, 1.png ...

Each mask is selected three times: by a click, by a box with a margin of 2 %, by two clicks and one beside the object.
The first click is the mask's pixel farthest from its border, the others are in the middle of the largest mistake.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import list_masks, load_object
from fast_sam3d.segment.select import Click, Marks, Selector

LEAST = 0.01  # of the object: nobody clicks on smaller mistakes
Mask = NDArray[np.bool_]


def iou(found: Mask, truth: Mask) -> float:
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def middle(mask: Mask) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is farthest from its border."""
    row, column = np.unravel_index(distance_transform_edt(np.pad(mask, 1)).argmax(), np.add(mask.shape, 2))
    return int(column) - 1, int(row) - 1


def clicked(selector: Selector, truth: Mask, missing: int = 0, background: int = 0) -> Mask:
    """The mask of a click, then of further ones on what is missing, then beside the object on what is too much."""
    clicks = [Click(*middle(truth))]
    mask = selector.select(Marks(clicks)).mask
    for positive in [True] * missing + [False] * background:
        wrong = truth & ~mask if positive else mask & ~truth
        parts, count = label(wrong)
        largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count else wrong
        if largest.sum() > LEAST * truth.sum():
            clicks.append(Click(*middle(largest), positive=positive))
            mask = selector.select(Marks(clicks)).mask
    return mask


def boxed(selector: Selector, truth: Mask) -> Mask:
    rows, columns = (np.flatnonzero(truth.any(axis=axis)) for axis in (1, 0))
    height, width = truth.shape
    margin = 0.02 * max(rows[-1] - rows[0], columns[-1] - columns[0])
    box = (
        max(0, columns[0] - margin), max(0, rows[0] - margin),
        min(width, columns[-1] + 1 + margin), min(height, rows[-1] + 1 + margin),
    )  # fmt: skip
    return selector.select(Marks(box=box)).mask


def main(folders: list[str]) -> None:
    ways = {
        "1 click": clicked,
        "box": boxed,
        "2 clicks, 1 beside": lambda selector, truth: clicked(selector, truth, 1, 1),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for folder in folders:
        selector = None
        for number in list_masks(Path(folder)):
            given = load_object(folder, number, pointmap="none").reduced()  # to 2048 pixels, for the distances
            if selector is None:
                selector = Selector(given.image)
                begin = time.perf_counter()
                selector.prepare()
                print(f"{folder}: {given.size[0]}x{given.size[1]}, prepared in {time.perf_counter() - begin:.2f} s")
            for name, way in ways.items():
                try:
                    found[name].append(iou(way(selector, given.mask), given.mask))
                except InputError as error:
                    print(f"  mask {number}, {name}: {error}")
                    found[name].append(0.0)
            print(f"  mask {number}: " + ", ".join(f"{name} {values[-1]:.2f}" for name, values in found.items()))
    for name, values in found.items():
        good = np.mean(np.array(values) > 0.8)
        print(
            f"{name}: mean {np.mean(values):.2f}, median {np.median(values):.2f}, above .8: {good:.0%} of {len(values)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
