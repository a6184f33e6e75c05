"""Loading of one object: its image, its mask and, if there is one, a pointmap."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.packaged import bundled_example
from fast_sam3d.errors import InputError, suggest
from fast_sam3d.inputs.pictures import checked_mask, read_mask, read_picture
from fast_sam3d.inputs.pointmaps import Pointmap, find_pointmap, read_pointmap

__all__ = [
    "ObjectInput",
    "find_image",
    "folder_name",
    "list_masks",
    "load_object",
    "numbered_masks",
    "picture_of",
    "result_name",
]

log = logging.getLogger(__name__)

MAX_NAME = 200  # bytes; file systems take 255
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_MASK_NAME = re.compile(r"(\d+)\.png", re.IGNORECASE)
_OTHER_MASK_NAME = re.compile(r"(\d+)\.(jpe?g|webp|bmp|tiff?|gif|ppm)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectInput:
    """One object to reconstruct.

    Args:
        name: of its results: name of the image and number of the mask.
        image: [H, W, 3] uint8, RGB.
        mask: [H, W] bool, True on the object.
        pointmap: [H, W, 3] float32 in metres or any one unit, PyTorch3D camera frame (+x left, +y up, +z forward),
            NaN where unknown; or None.
        size: (width, height) of the image file in pixels.
        notices: what is odd about how the input was read, for log, report and preview.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    pointmap: NDArray[np.float32] | None
    image_path: Path
    mask_path: Path
    pointmap_path: Path | None
    size: tuple[int, int]
    notices: tuple[str, ...] = ()


def load_object(
    image_path: Path | str,
    mask_index: int | None = None,
    mask_path: Path | str | None = None,
    pointmap: str = "auto",
    pointmap_axes: str = "auto",
) -> ObjectInput:
    """Read the inputs of one object.

    Args:
        image_path: a folder with image.png and masks 0.png, 1.png ... (gaps are fine), or an image file; or
            "examples/teapot", the packaged example.
        mask_index: number of the mask beside the image; None: the lowest.
        mask_path: a mask file to use instead.
        pointmap: "auto": pointmap.npz or pointmap.npy beside the image, if any; "none"; or the path of a file.
        pointmap_axes: its frame, "pytorch3d", "opencv" or "opengl"; "auto" recognises it.

    Raises:
        InputError: an input is missing or invalid; the message says what to do.
    """
    with reading(image_path):
        return _load(Path(image_path), mask_index, mask_path, pointmap, pointmap_axes)


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn a system error in the block, about an unreadable folder or too long a name, into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path") from error


def _load(
    image_path: Path, mask_index: int | None, mask_path: Path | str | None, pointmap: str, axes: str
) -> ObjectInput:
    image_file = find_image(image_path)
    folder = image_file.parent
    image, alpha = read_picture(image_file)
    if mask_path is not None:
        mask_file = Path(mask_path)
        mask = read_mask(mask_file)
        label = mask_file.stem
    else:
        masks = list_masks(folder)
        if mask_index is None and not masks and alpha is not None:
            log.info("%s: no mask file, so its alpha channel is the mask", image_file)
            mask_file, mask, label = image_file, checked_mask(alpha > 0, image_file), "alpha"
        else:
            mask_file = _pick_mask(masks, mask_index, folder)
            mask = read_mask(mask_file)
            label = str(int(mask_file.stem))
    if mask.shape == image.shape[1::-1] != image.shape[:2]:
        turned, _ = read_picture(image_file, upright=True)
        if turned.shape[:2] == mask.shape:
            log.info("%s: rotated by its EXIF orientation, to match the mask", image_file)
            image = turned
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{mask_file} is {mask.shape[1]}x{mask.shape[0]} pixels and {image_file} is {image.shape[1]}x"
            f"{image.shape[0]}: save the mask at the size of the image"
        )
    points_file = find_pointmap(folder, pointmap)
    points = Pointmap(None) if points_file is None else read_pointmap(points_file, image.shape[:2], mask, axes)
    base = image_file.stem if image_file.stem.lower() != "image" else folder_name(folder)
    size = (image.shape[1], image.shape[0])
    name = result_name(base, label)
    return ObjectInput(name, image, mask, points.points, image_file, mask_file, points_file, size, points.notices)


def folder_name(folder: Path) -> str:
    """Name of a folder, without following links, because several may have the same target."""
    return Path(os.path.abspath(folder)).name


def list_masks(folder: Path) -> dict[int, Path]:
    """Numbered masks of a folder, by number; 1.png takes precedence over 01.png."""
    return {number: paths[0] for number, paths in numbered_masks(folder).items()}


def numbered_masks(folder: Path) -> dict[int, list[Path]]:
    """All numbered masks of a folder, by number; of several with one number the shortest name comes first."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name)):
        match = _MASK_NAME.fullmatch(path.name)
        if match and path.is_file():
            found.setdefault(int(match.group(1)), []).append(path)
    return dict(sorted(found.items()))


def find_image(path: Path) -> Path:
    """Resolve --image_path to an image file; examples/NAME is also found in the installed package."""
    path = bundled_example(path)
    if path.is_dir():
        if (image := picture_of(path)) is not None:
            return image
        scenes = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and picture_of(folder)]
        if scenes:
            raise InputError(
                f"the folder {path} holds {len(scenes)} folders with a picture, such as {scenes[0]}, and none itself:"
                f" `fast-sam3d scene --image_path {path}` reconstructs all objects of all; or name one of them"
            )
        raise InputError(f"the folder {path} holds no image.png: save the image there under that name, or name a file")
    if not path.exists():
        near = suggest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        hint = f" ({near})" if near.startswith("did") else ""
        raise InputError(f"there is no image at {path}: check --image_path{hint}")
    return path


def picture_of(folder: Path) -> Path | None:
    """The file image.png of a folder, or another format's; None without one."""
    # Some systems write IMAGE.PNG; the lower-case name takes precedence.
    there = {p.name.lower(): p for p in sorted(folder.iterdir(), key=lambda p: p.name) if p.is_file()}
    return next((there[name] for suffix in _SUFFIXES if (name := f"image{suffix}") in there), None)


def _pick_mask(masks: dict[int, Path], index: int | None, folder: Path) -> Path:
    others = {int(m[1]): p for p in sorted(folder.iterdir()) if (m := _OTHER_MASK_NAME.fullmatch(p.name))}
    if others and (not masks if index is None else index not in masks and index in others):
        other = others[index] if index is not None else others[min(others)]
        raise InputError(
            f"{folder} has {other.name}, but numbered masks must be PNG files: save it as {other.stem}.png, or name it "
            "with --mask_path"
        )
    if not masks:
        raise InputError(f"{folder} holds no mask: save one there as 0.png, or name one with --mask_path")
    if index is None:
        first = next(iter(masks))
        if len(masks) > 1:
            log.info("%d masks in %s: taking %d; choose with --mask_index", len(masks), folder, first)
        return masks[first]
    if index not in masks:
        there = ", ".join(str(i) for i in masks)
        raise InputError(f"{folder} has no mask {index}.png: there are {there}")
    return masks[index]


def result_name(base: str, label: str) -> str:
    """A file name of at most `MAX_NAME` bytes; longer ones are shortened to start, checksum and label."""
    name, label = (re.sub(r"[^\w.-]+", "_", part) for part in (base, label))
    whole = f"{name}_{label}".strip("._") or "object"
    if len(whole.encode()) <= MAX_NAME:
        return whole
    start = whole.encode()[: MAX_NAME // 2].decode(errors="ignore")
    end = label if len(label.encode()) <= 20 else "mask"
    return f"{start}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}_{end}"
