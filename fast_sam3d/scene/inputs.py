"""The input of a scene on disk: a picture, its numbered masks and an optional pointmap, each read once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import (
    ObjectInput,
    find_image,
    folder_name,
    numbered_masks,
    picture_of,
    reading,
    result_name,
)
from fast_sam3d.inputs.pictures import picture_size, read_mask, read_picture
from fast_sam3d.inputs.pointmaps import Pointmap, check_known, find_pointmap, read_pointmap

__all__ = ["SceneInput", "digest", "load_scene", "scene_folders"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class SceneInput:
    """One picture and its masks, which are read on demand.

    Args:
        name: a file name for its results.
        folder: of the picture.
        image: [H, W, 3] uint8, RGB.
        image_path: its file.
        pointmap: [H, W, 3] float32, see `ObjectInput`; or None.
        masks: number to file, by number; gaps are allowed.
        passed_over: files with the number of another file, such as 01.png beside 1.png.
        digests: of picture and pointmap as they were read, sha256; that of the pointmap may be None.
        size: (width, height) in pixels.
        notices: what is odd about how picture and pointmap were read.
        max_side: pixels; longer pictures are reduced beforehand, as the embedded pipeline would do.
    """

    name: str
    folder: Path
    image: NDArray[np.uint8]
    image_path: Path
    pointmap: NDArray[np.float32] | None
    pointmap_path: Path | None
    masks: Mapping[int, Path]
    passed_over: Sequence[Path]
    digests: Mapping[str, str | None]
    size: tuple[int, int]
    notices: tuple[str, ...] = ()
    max_side: int | None = None

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The mask [H, W], at the size of its file.

        Raises:
            InputError: unreadable, empty, full, or of another size than the picture's.
        """
        path = self.masks[number]
        with reading(path):
            mask = read_mask(path)
        if mask.shape != self.size[::-1]:
            raise InputError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels and {self.image_path} is {self.size[0]}x"
                f"{self.size[1]}: save the mask at the picture's size"
            )
        return mask

    def object(self, number: int) -> ObjectInput:
        """The input of one object's run.

        Raises:
            InputError: as `mask`; a pointmap with too few points on the object.
        """
        mask = self.mask(number)
        if self.max_side is not None:
            from fast_sam3d.model.inputs import reduce_mask

            mask = reduce_mask(mask, self.max_side)
        if self.pointmap is not None and self.pointmap_path is not None:
            check_known(self.pointmap, mask, self.pointmap_path)
        name = result_name(self.name, str(number))
        return ObjectInput(
            name, self.image, mask, self.pointmap, self.image_path, self.masks[number], self.pointmap_path, self.size,
            self.notices,
        )  # fmt: skip

    def reduced(self) -> SceneInput:
        """The scene at the size to which the embedded pipeline reduces it, so that this is computed once."""
        from fast_sam3d.model.inputs import MAX_SIDE, match_size, reduce_colours

        image = reduce_colours(self.image)
        points = self.pointmap
        if points is not None and image is not self.image:
            points = match_size(points, *image.shape[:2]).numpy()
        return replace(self, image=image, pointmap=points, max_side=MAX_SIDE)


def scene_folders(image_dir: Path) -> list[Path]:
    """The scenes of a folder: the folder itself if a picture is in it, else its subfolders with one, by name.

    Raises:
        InputError: neither.
    """
    with reading(image_dir):
        if not image_dir.is_dir():
            raise InputError(f"{image_dir} is no folder: name a folder with image.png and masks 0.png, 1.png ...")
        if picture_of(image_dir):
            return [image_dir]
        found = [path for path in sorted(image_dir.iterdir()) if path.is_dir() and picture_of(path)]
    if not found:
        raise InputError(
            f"the folder {image_dir} holds no image.png, nor does a folder in it: put the picture there under that name"
        )
    return found


def load_scene(folder: Path, pointmap: str = "auto", pointmap_axes: str = "auto") -> SceneInput:
    """Reads a picture and its pointmap, and lists its masks.

    Args:
        folder: with image.png and masks 0.png, 1.png ...
        pointmap, pointmap_axes: as for `inputs.load.load_object`.

    Raises:
        InputError: no picture, no mask, or a picture or pointmap that cannot be used.
    """
    with reading(folder):
        image_path = find_image(folder)
        image, _ = read_picture(image_path)
        numbered = numbered_masks(folder)
        if not numbered:
            raise InputError(f"{folder} holds no mask: save one for each object, as 0.png, 1.png ...")
        masks = {number: paths[0] for number, paths in numbered.items()}
        passed_over = [path for paths in numbered.values() for path in paths[1:]]
        for path in passed_over:
            log.warning("%s is left out: %s has the same number", path, masks[int(path.stem)].name)
        sizes = [picture_size(path) for path in masks.values()]
        size = (image.shape[1], image.shape[0])
        if size not in sizes and size[::-1] in sizes:
            turned, _ = read_picture(image_path, upright=True)
            if turned.shape[1::-1] in sizes:
                log.info("%s: turned as its EXIF data says, because the masks are", image_path)
                image, size = turned, (turned.shape[1], turned.shape[0])
        points_path = find_pointmap(folder, pointmap)
        found = Pointmap(None)
        if points_path is not None:
            found = read_pointmap(points_path, (size[1], size[0]), None, pointmap_axes)
        points = found.points
        name = result_name(folder_name(folder), "")
    digests = {"image": digest(image), "pointmap": None if points is None else digest(points)}
    return SceneInput(
        name, folder, image, image_path, points, points_path, masks, passed_over, digests, size, found.notices
    )


def digest(pixels: NDArray[Any]) -> str:
    """sha256 of an array's shape, type and content; the same for every encoding of the same pixels."""
    summed = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape} ".encode())
    summed.update((np.packbits(pixels) if pixels.dtype == bool else np.ascontiguousarray(pixels)).data)
    return summed.hexdigest()
