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

from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.labels import label_file, labelled_objects
from fast_sam3d.inputs.load import (
    MaskSource,
    ObjectInput,
    find_image,
    folder_name,
    numbered_masks,
    picture_of,
    reading,
    result_name,
    turned_picture,
)
from fast_sam3d.inputs.pictures import check_range, read_picture
from fast_sam3d.inputs.pointmaps import Pointmap, check_known, find_pointmap, read_pointmap
from fast_sam3d.inputs.turns import check_turn

__all__ = ["SceneInput", "digest", "load_scene", "scene_folders", "scene_masks"]

log = logging.getLogger(__name__)

MOST_COMPARED = 8


@dataclass(frozen=True, slots=True, eq=False)
class SceneInput:
    """One picture and its masks, which are read on demand.

    Args:
        name: a file name for its results.
        folder: of the picture.
        image: [H, W, 3] uint8, RGB.
        image_path: its file.
        pointmap: [H, W, 3] float32, see `ObjectInput`; or None.
        masks: by number; gaps are allowed.
        passed_over: files with the number of another file, such as 01.png beside 1.png.
        digests: of picture and pointmap as they were read, sha256; that of the pointmap may be None.
        size: (width, height) in pixels.
        max_side: pixels; longer pictures are reduced beforehand, as the embedded pipeline would do.
        threshold: of the masks, see `read_mask`.
        notices: what is odd about how picture and pointmap were read.
    """

    name: str
    folder: Path
    image: NDArray[np.uint8]
    image_path: Path
    pointmap: NDArray[np.float32] | None
    pointmap_path: Path | None
    masks: Mapping[int, MaskSource]
    passed_over: Sequence[Path]
    digests: Mapping[str, str | None]
    size: tuple[int, int]
    max_side: int | None = None
    threshold: float | None = None
    notices: tuple[str, ...] = ()

    def mask(self, number: int, notices: list[str] | None = None) -> NDArray[np.bool_]:
        """The mask [H, W], at the size of its file.

        Args:
            notices: receives a sentence for whatever might have been meant otherwise.

        Raises:
            InputError: unreadable, empty, full, or of another size than the picture's.
        """
        notices = [] if notices is None else notices
        return self.masks[number].fitted(self.image, self.size[::-1], self.image_path, self.threshold, notices)

    def object(self, number: int) -> ObjectInput:
        """The input of one object's run.

        Raises:
            InputError: as `mask`; a pointmap with too few points on the object.
        """
        notices = list(self.notices)
        mask, source = self.mask(number, notices), self.masks[number]
        if self.max_side is not None:
            from fast_sam3d.model.inputs import reduce_mask

            mask = reduce_mask(mask, self.max_side)
        if self.pointmap is not None and self.pointmap_path is not None:
            check_known(self.pointmap, mask, self.pointmap_path)
        name = result_name(self.name, str(number))
        return ObjectInput(
            name, self.image, mask, self.pointmap, self.image_path, source.path, self.pointmap_path, self.size,
            tuple(notices),
        )  # fmt: skip

    def reduced(self) -> SceneInput:
        """The scene at the size to which the embedded pipeline reduces it, so that this is computed once."""
        from fast_sam3d.model.inputs import MAX_SIDE, reduce_view

        image, points = reduce_view(self.image, self.pointmap)
        return replace(self, image=image, pointmap=points, max_side=MAX_SIDE)


def scene_folders(image_dir: Path) -> list[Path]:
    """The scenes of a folder: the folder itself if a picture is in it, else its subfolders with one, by name.

    Hidden subfolders are left out, with a log line.

    Raises:
        InputError: neither.
    """
    with reading(image_dir):
        if not image_dir.is_dir():
            raise InputError(f"{image_dir} is no folder: name a folder with image.png and masks 0.png, 1.png ...")
        if picture_of(image_dir):
            return [image_dir]
        there = [path for path in sorted(image_dir.iterdir()) if path.is_dir() and picture_of(path)]
    found = [path for path in there if not path.name.startswith(".")]
    if len(found) < len(there):
        hidden = ", ".join(path.name for path in there if path not in found)
        log.warning("hidden folders in %s are left out: %s; name one itself to reconstruct it", image_dir, hidden)
    if not found:
        raise InputError(
            f"the folder {image_dir} holds no image.png, nor does a folder in it: put the picture there under that name"
        )
    return found


def load_scene(folder: Path, asked: InputConfig | None = None) -> SceneInput:
    """Reads a picture and its pointmap, and lists its masks.

    Args:
        folder: with image.png and masks 0.png, 1.png ..., or a file with the masks of several objects.
        asked: which pointmap, which file of masks, and how they are read; see `fast_sam3d.inputs.load.load_object`.

    Raises:
        InputError: no picture, no mask, or a picture or pointmap that cannot be used.
    """
    asked = asked or InputConfig()
    notices: list[str] = []
    with reading(folder):
        image_path = find_image(folder)
        picture = read_picture(image_path)
        check_range(picture.rgb, image_path, notices)
        masks, passed_over = scene_masks(folder, image_path, asked, notices)
        sources = list(masks.values())
        # Masks that are read to see how the picture is turned: a few of them.
        sources = sources[:: -(-len(sources) // MOST_COMPARED)]
        image = turned_picture(picture, image_path, sources, asked.mask_threshold, notices)
        size = (image.shape[1], image.shape[0])
        points_path = find_pointmap(folder, asked.pointmap)
        found = Pointmap(None)
        if points_path is not None:
            found = read_pointmap(points_path, (size[1], size[0]), None, asked.pointmap_axes)
            notices += found.notices
            check_turn(picture, image, points_path, notices)
        points = found.points
        name = result_name(folder_name(folder), "")
    for notice in notices:
        log.warning("%s: %s", name, notice)
    digests = {"image": digest(image), "pointmap": None if points is None else digest(points)}
    return SceneInput(
        name, folder, image, image_path, points, points_path, masks, passed_over, digests, size,
        threshold=asked.mask_threshold, notices=tuple(notices),
    )  # fmt: skip


def scene_masks(
    folder: Path, image_path: Path, asked: InputConfig, notices: list[str]
) -> tuple[dict[int, MaskSource], list[Path]]:
    """The masks of a scene, by number, and files that are left out because another one has the same number.

    They are the objects of the file that is asked for, else the numbered masks, else those of one of `LABEL_FILES`.

    Raises:
        InputError: none.
    """
    numbered = {} if asked.mask_path is not None else numbered_masks(folder)
    if numbered:
        passed_over = [path for paths in numbered.values() for path in paths[1:]]
        for path in passed_over:
            log.warning("%s is left out: %s has the same number", path, numbered[int(path.stem)][0].name)
        return {number: MaskSource(paths[0]) for number, paths in numbered.items()}, passed_over
    file = asked.mask_path or label_file(folder)
    if file is None:
        raise InputError(f"{folder} holds no mask: save one for each object, as 0.png, 1.png ...")
    if asked.mask_path is None:
        log.info("%s: no numbered mask, so the masks are those of %s", folder, file.name)
    return {item.number: MaskSource(file, item) for item in labelled_objects(file, image_path, notices)}, []


def digest(pixels: NDArray[Any]) -> str:
    """sha256 of an array's shape, type and content; the same for every encoding of the same pixels."""
    summed = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape} ".encode())
    summed.update((np.packbits(pixels) if pixels.dtype == bool else np.ascontiguousarray(pixels)).data)
    return summed.hexdigest()
