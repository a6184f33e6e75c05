"""Files that hold the masks of several objects: label maps, stacks of masks, and annotations in JSON."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.annotations import Labelled, annotated_objects
from fast_sam3d.inputs.arrays import read_array
from fast_sam3d.inputs.masks import ARRAYS
from fast_sam3d.inputs.pictures import LOSSY, is_wide, open_picture

__all__ = ["Labelled", "chosen", "is_annotation", "label_file", "labelled_objects"]

log = logging.getLogger(__name__)

MOST = 1000
"""A file with more objects is not a label map."""
LABEL_FILES = ("labels.png", "labels.npy", "labels.npz", "image.json")
"""Names under which a scene's masks are found without being named; labelme writes the last."""
VOID = 255  # of 8-bit label maps: pixels of no object


def is_annotation(path: Path) -> bool:
    """Whether a file holds annotations in JSON."""
    return path.suffix.lower() == ".json"


def label_file(folder: Path) -> Path | None:
    """The file of a folder that holds the masks of several objects under one of `LABEL_FILES`."""
    return next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)


def labelled_objects(path: Path, picture: Path, notices: list[str]) -> list[Labelled]:
    """All objects of a label map (PNG, .npy, .npz), of a stack of masks [N, H, W], or of annotations (.json).

    Label 0 is the background, and 255 of an 8-bit map is no object where other labels are there.

    Args:
        picture: that the masks are of; annotations of several pictures are searched for its name.
        notices: receives a sentence for what is left out.

    Raises:
        InputError: unreadable, without an object, or nothing of this kind.
    """
    if is_annotation(path):
        found = annotated_objects(path, picture, notices)
    else:
        labels = _label_map(path)
        if labels.ndim == 3:
            stack = labels != 0
            found = [Labelled(n, "", lambda n=n: stack[n]) for n in range(len(stack))]  # type: ignore[misc]
        else:
            found = [Labelled(n, "", lambda n=n: labels == n) for n in _numbers(labels, path)]  # type: ignore[misc]
    if not found:
        raise InputError(f"{path} holds no object: every pixel of it is background")
    if len(found) > MOST:
        raise InputError(f"{path} holds {len(found)} objects, more than {MOST}: it is not a label map")
    return found


def chosen(found: Sequence[Labelled], label: str | None, path: Path) -> Labelled:
    """The object with a number or name.

    Raises:
        InputError: there is none, or there are several; the message lists them.
    """
    if label is None:
        if len(found) == 1:
            return found[0]
        raise InputError(f"{path} holds {len(found)} objects, {_listed(found)}: choose one with --mask_label")
    fitting = [item for item in found if str(item.number) == label.strip()]
    fitting = fitting or [item for item in found if item.name.casefold() == label.strip().casefold() and item.name]
    if len(fitting) > 1:
        raise InputError(
            f"{path} holds {len(fitting)} objects named {label}, {_listed(fitting)}: choose one by its number with "
            "--mask_label"
        )
    if not fitting:
        raise InputError(f"{path} holds no object {label}: there are {_listed(found)}; choose one with --mask_label")
    return fitting[0]


def _listed(found: Sequence[Labelled]) -> str:
    names = [f"{item.number} ({item.name})" if item.name else str(item.number) for item in found]
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _numbers(labels: NDArray[Any], path: Path) -> list[int]:
    """The labels of a map's objects, in order."""
    values = [int(value) for value in np.unique(labels)]
    found = [value for value in values if value > 0]
    if labels.dtype == np.uint8 and len(found) > 1 and found[-1] == VOID:
        log.info("%s: 255 marks pixels of no object", path)
        found.pop()
    return found


def _label_map(path: Path) -> NDArray[Any]:
    """Labels [H, W] whole numbers, or masks [N, H, W]."""
    if path.suffix.lower() in ARRAYS:
        values = read_array(path)
        if values.ndim > 2 and min(values.shape) == 1:
            values = values.reshape([side for side in values.shape if side != 1])
        if values.ndim == 3 and values.dtype.kind == "f":
            if not np.isin(values, (0, 1)).all():
                raise InputError(f"the masks in {path} are not 0 and 1: save them as bool")
            values = values != 0
        elif values.dtype.kind == "f":
            if not (np.isfinite(values).all() and (values == np.round(values)).all()):
                raise InputError(f"the labels in {path} are not whole numbers: save them as integers")
            values = values.astype(np.int64)
        if values.ndim == 3 and values.shape[2] in (3, 4) and values.shape[0] > 4:
            raise InputError(f"{path} has shape {list(values.shape)}, like a picture: save labels as [height, width]")
        if values.ndim not in (2, 3):
            raise InputError(f"{path} has shape {list(values.shape)}: save labels as [height, width]")
        return values
    picture = open_picture(path)
    if picture.format in LOSSY:
        raise InputError(f"{path} is a {picture.format} file, which changes labels: save them as PNG")
    if picture.mode == "P":
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture.convert("L")) // 255
    if picture.mode in ("L", "I") or is_wide(picture):
        return np.asarray(picture)
    if picture.mode in ("LA", "RGBA") and len(np.unique(np.asarray(picture.getchannel("A")))) > 1:
        raise InputError(
            f"{path} is the cut-out of one object, with the mask in its alpha channel, and no label map: leave "
            "--mask_label out"
        )
    if picture.mode == "LA":
        return np.asarray(picture.getchannel(0))
    if picture.mode in ("RGB", "RGBA"):
        red, green, blue = (np.asarray(picture.getchannel(name)).astype(np.int32) for name in "RGB")
        if (red == green).all() and (red == blue).all():
            return red.astype(np.uint8)
        return red + 256 * green + 65536 * blue  # as in COCO's panoptic label maps
    raise InputError(f"{path} stores its pixels as '{picture.mode}': save labels as an 8-bit or 16-bit PNG")
