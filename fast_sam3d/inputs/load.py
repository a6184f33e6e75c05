"""Loading of one object: its image, its mask and, if there is one, a pointmap."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.packaged import bundled_example
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import InputError, suggest
from fast_sam3d.inputs.annotations import Labelled
from fast_sam3d.inputs.cutout import cut_out
from fast_sam3d.inputs.labels import chosen, is_annotation, label_file, labelled_objects
from fast_sam3d.inputs.masks import alpha_mask, check_shape, read_mask
from fast_sam3d.inputs.pictures import Picture, check_range, orientation_in, read_picture
from fast_sam3d.inputs.pointmaps import Pointmap, find_pointmap, read_pointmap
from fast_sam3d.inputs.selected import selected
from fast_sam3d.inputs.turns import check_turn, fitting_mask, fitting_picture

__all__ = [
    "MaskSource",
    "ObjectInput",
    "find_image",
    "folder_name",
    "list_masks",
    "load_asked",
    "load_object",
    "numbered_masks",
    "picture_of",
    "result_name",
    "turned_picture",
]

log = logging.getLogger(__name__)

OPAQUE_SHARE = 0.05
MAX_NAME = 200  # bytes; file systems take 255
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".heic", ".heif", ".avif")
_MASK_NAME = re.compile(r"([0-9]+)\.(png|npy|tiff?|bmp|gif|p[gp]m|webp|jpe?g|avif|hei[cf])", re.IGNORECASE)
_LOSSY_SUFFIXES = ("webp", "jpg", "jpeg", "avif", "heic", "heif")


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
        alpha: [H, W] uint8, opacity of the object, where the mask is made of one; TRELLIS takes it as it is.
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
    alpha: NDArray[np.uint8] | None = None

    def mask_for(self, model: str) -> NDArray[Any]:
        """The mask [H, W] as a model takes it: TRELLIS uint8, the opacity, where there is one.

        TRELLIS crops to what is opaque (0.8), so that an object of which too little is gets its mask.
        """
        if model != "trellis" or self.alpha is None:
            return self.mask
        few = (self.alpha > 0.8 * 255).sum() < max(OPAQUE_SHARE * self.mask.sum(), 9)
        return self.mask if few else self.alpha

    def reduced(self) -> ObjectInput:
        """The object at the size to which the embedded pipeline reduces it, so that the full one leaves the memory.

        Unchanged where the reduced mask would cover the whole picture, which is refused.
        """
        from fast_sam3d.model.inputs import reduce_mask, reduce_view

        mask = reduce_mask(self.mask)
        if mask is self.mask or mask.all():
            return self
        image, points = reduce_view(self.image, self.pointmap)
        return replace(self, image=image, mask=mask, pointmap=points, alpha=None)


@dataclass(frozen=True, slots=True, eq=False)
class MaskSource:
    """Where the mask of one object is.

    Args:
        path: its file.
        labelled: the object in a file with several; None: the file is the mask.
    """

    path: Path
    labelled: Labelled | None = None

    @property
    def name(self) -> str:
        """Of the file, with the object's name and number in a file with several."""
        return self.path.name if self.labelled is None else f"{self.path.name}:{self.labelled.label}"

    def read(self, threshold: float | None, notices: list[str]) -> tuple[NDArray[np.bool_], int]:
        """The mask [H, W] as it is stored, and the EXIF orientation of its file. Raises InputError."""
        if self.labelled is not None:
            mask = self.labelled.draw()
            if not mask.any():
                raise InputError(f"the mask {self.name} is empty: no pixel of the picture is inside of it")
            return mask, 1
        return read_mask(self.path, threshold, notices), orientation_in(self.path)

    def fitted(
        self, rgb: NDArray[np.uint8], size: tuple[int, int], image: Path, threshold: float | None, notices: list[str]
    ) -> NDArray[np.bool_]:
        """The mask [H, W] of a picture.

        Args:
            rgb: [h, w, 3] of the picture, also reduced; `size` is its (height, width).
            image: its file.

        Raises:
            InputError: unreadable, empty, full, or of another size than the picture's.
        """
        with reading(self.path):
            mask, orientation = self.read(threshold, notices)
        mask = fitting_mask(mask, orientation, rgb, size, self.path, notices)
        if mask.shape != size:
            raise InputError(
                f"{self.path} is {mask.shape[1]}x{mask.shape[0]} pixels and {image} is {size[1]}x{size[0]}: save the "
                "mask at the size of the image"
            )
        check_shape(mask, self.path, notices)
        return mask


def load_object(
    image_path: Path | str, mask_index: int | None = None, mask_path: Path | str | None = None, pointmap: str = "auto",
    pointmap_axes: str = "auto", *, mask_label: str | None = None, mask_threshold: float | None = None,
) -> ObjectInput:  # fmt: skip
    """Read the inputs of one object.

    Args:
        image_path: a folder with image.png and masks 0.png, 1.png ... (gaps are fine), or an image file; or
            "examples/teapot", the packaged example.
        mask_index: number of the mask beside the image; None: the lowest.
        mask_path: a file to use instead: a mask, or a label map, COCO or labelme annotations with `mask_label`.
        pointmap: "auto": pointmap.npz or pointmap.npy beside the image, if any; "none"; or the path of a file.
        pointmap_axes: its frame, "pytorch3d", "opencv" or "opengl"; "auto" recognises it.
        mask_label: number or name of an object in `mask_path`.
        mask_threshold: share of the full range, in (0, 1], from which on a pixel is of the object, see `read_mask`.

    Raises:
        InputError: an input is missing or invalid; the message says what to do.
    """
    return load_asked(
        InputConfig(
            Path(image_path), mask_index, None if mask_path is None else Path(mask_path), pointmap, pointmap_axes,
            mask_label=mask_label, mask_threshold=mask_threshold,
        )
    )  # fmt: skip


def load_asked(asked: InputConfig) -> ObjectInput:
    """Read the inputs of one object, which a configuration names. Logs the notices; raises InputError."""
    assert asked.image_path is not None
    with reading(asked.image_path):
        return _load(asked.image_path, asked)


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn a system error in the block, about an unreadable folder or too long a name, into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path") from error


def _load(image_path: Path, asked: InputConfig) -> ObjectInput:
    image_file = find_image(image_path)
    folder = image_file.parent
    notices: list[str] = []
    picture = read_picture(image_file)
    check_range(picture.rgb, image_file, notices)
    masks = {} if asked.mask_path is not None else numbered_masks(folder)
    if asked.mask_label is not None and asked.mask_path is None:
        raise InputError("--mask_label chooses an object of a label map or of annotations: name it with --mask_path")
    alpha, named = None, asked.mask_path is not None or asked.mask_index is not None or bool(masks)
    if asked.marked:
        image, mask_file = picture.upright.rgb, image_file
        mask, label = selected(image, asked)
    elif not named and (picture.alpha is not None or asked.rembg):
        mask_file, label, image, alpha = image_file, "alpha", picture.rgb, picture.alpha
        if alpha is None:
            image, label = picture.upright.rgb, "rembg"
            alpha = cut_out(image, image_file)
        else:
            log.info("%s: no mask file, so its alpha channel is the mask", image_file)
        threshold = 0.5 if label == "rembg" and asked.mask_threshold is None else asked.mask_threshold
        mask = alpha_mask(alpha, image_file, threshold, notices)
        check_shape(mask, image_file, notices)
    else:
        source, label = _source(asked, masks, image_file, notices)
        mask_file = source.path
        image = turned_picture(picture, image_file, [source], asked.mask_threshold, notices)
        mask = source.fitted(image, image.shape[:2], image_file, asked.mask_threshold, notices)
    points_file = find_pointmap(folder, asked.pointmap)
    points = Pointmap(None)
    if points_file is not None:
        points = read_pointmap(points_file, image.shape[:2], mask, asked.pointmap_axes)
        notices += points.notices
        check_turn(picture, image, points_file, notices)
    base = image_file.stem if image_file.stem.lower() != "image" else folder_name(folder)
    size = (image.shape[1], image.shape[0])
    name = result_name(base, label)
    for notice in notices:
        log.warning("%s: %s", name, notice)
    return ObjectInput(
        name, image, mask, points.points, image_file, mask_file, points_file, size, tuple(notices), alpha
    )


def _source(
    asked: InputConfig, masks: dict[int, list[Path]], image_file: Path, notices: list[str]
) -> tuple[MaskSource, str]:
    """The mask that is asked for, and how the results are named after it."""
    if (path := asked.mask_path) is None:
        path = _pick_mask(masks, asked.mask_index, image_file.parent)
        return MaskSource(path), str(int(path.stem))
    if asked.mask_label is None and not is_annotation(path):
        return MaskSource(path), path.stem
    found = chosen(labelled_objects(path, image_file, notices), asked.mask_label, path)
    return MaskSource(path, found), found.label if path.stem == image_file.stem else f"{path.stem}_{found.label}"


def turned_picture(
    picture: Picture, path: Path, sources: Sequence[MaskSource], threshold: float | None, notices: list[str]
) -> NDArray[np.uint8]:
    """The pixels of a picture, turned by its EXIF orientation if its masks are."""

    def masks() -> Iterator[tuple[NDArray[np.bool_], int]]:
        for source in sources:
            with contextlib.suppress(InputError, OSError):  # reported when it is used
                yield source.read(threshold, [])

    return fitting_picture(picture, path, masks(), notices)


def folder_name(folder: Path) -> str:
    """Name of a folder, without following links, because several may have the same target."""
    return Path(os.path.abspath(folder)).name


def list_masks(folder: Path) -> dict[int, Path]:
    """Numbered masks of a folder, by number; 1.png takes precedence over 01.png."""
    return {number: paths[0] for number, paths in numbered_masks(folder).items()}


def numbered_masks(folder: Path) -> dict[int, list[Path]]:
    """All numbered masks of a folder, by number.

    Of several with one number those without loss come first, PNG before others, then those with the shortest name.
    """
    found: dict[int, list[tuple[Any, Path]]] = {}
    for path in folder.iterdir():
        match = _MASK_NAME.fullmatch(path.name)
        if match and path.is_file():
            suffix = match[2].lower()
            order = (suffix != "png", suffix in _LOSSY_SUFFIXES, len(path.name), path.name)
            found.setdefault(int(match[1]), []).append((order, path))
    return {number: [path for _, path in sorted(found[number])] for number in sorted(found)}


def find_image(path: Path) -> Path:
    """Resolve --image_path to an image file; examples/NAME is also found in the installed package."""
    path = bundled_example(path)
    if path.is_dir():
        if (image := picture_of(path)) is not None:
            return image
        scenes = [folder.name for folder in sorted(path.glob("[!.]*")) if folder.is_dir() and picture_of(folder)]
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


def _pick_mask(masks: dict[int, list[Path]], index: int | None, folder: Path) -> Path:
    if not masks:
        if (labels := label_file(folder)) is not None:
            raise InputError(
                f"{folder} holds no numbered mask, but {labels.name}: name it with --mask_path {labels} and choose an "
                "object with --mask_label"
            )
        raise InputError(
            f"{folder} holds no mask: save one there as 0.png, name one with --mask_path, select the object with "
            "--click or --box, or cut it out with --rembg"
        )
    if index is None:
        index = next(iter(masks))
        if len(masks) > 1:
            log.info("%d masks in %s: taking %d; choose with --mask_index", len(masks), folder, index)
    if index not in masks:
        there = ", ".join(str(i) for i in masks)
        raise InputError(f"{folder} has no mask {index}.png: there are {there}")
    first, *others = masks[index]
    for other in others:
        log.warning("%s is left out: %s has the same number", other, first.name)
    return first


def result_name(base: str, label: str) -> str:
    """A file name of at most `MAX_NAME` bytes; longer ones are shortened to start, checksum and label."""
    name, label = (re.sub(r"[^\w.-]+", "_", part) for part in (base, label))
    whole = f"{name}_{label}".strip("._") or "object"
    if len(whole.encode()) <= MAX_NAME:
        return whole
    start = whole.encode()[: MAX_NAME // 2].decode(errors="ignore")
    end = label if len(label.encode()) <= 20 else "mask"
    return f"{start}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}_{end}"
