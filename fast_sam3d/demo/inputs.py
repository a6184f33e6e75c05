"""What a job is given: a picture with the masks of its objects, in memory, and the folder that repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.packaged import resource
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import list_masks, load_object, picture_of, result_name
from fast_sam3d.inputs.masks import read_mask
from fast_sam3d.inputs.pictures import read_picture
from fast_sam3d.outputs.files import atomic_write

__all__ = ["Example", "JobInput", "examples"]


@dataclass(frozen=True, slots=True, eq=False)
class JobInput:
    """A picture and the objects in it.

    Args:
        image: [H, W, 3] uint8, RGB.
        masks: of each object, [H, W], the object where it is above 0; one for an object, several for a scene.
        name: of the picture, for folders and files; any text.
        pointmap: [H, W, 3] float32, as `fast_sam3d.inputs.load.ObjectInput` has it, or None.
        source: the folder of an example that was taken as it is, so that the command line can name it.
        number: of the mask in that folder.
        notices: what was odd when they were read.

    Raises:
        InputError: a picture or mask of another kind; a mask that is empty or covers the whole picture.
    """

    image: NDArray[np.uint8]
    masks: tuple[NDArray[Any], ...]
    name: str = "picture"
    pointmap: NDArray[np.float32] | None = None
    source: Path | None = None
    number: int = 0
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        image = np.asarray(self.image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"the picture is {image.dtype} {list(image.shape)}: give [height, width, 3] of uint8")
        if not self.masks:
            raise InputError("no object is selected: select one first")
        for number, mask in enumerate(self.masks):
            which = "the mask" if len(self.masks) == 1 else f"mask {number}"
            covered = np.asarray(mask)
            if covered.shape != image.shape[:2]:
                raise InputError(
                    f"{which} is {list(covered.shape)} and the picture {list(image.shape[:2])} (height, width): give "
                    "the mask at the picture's size"
                )
            covered = covered > 0
            if not covered.any() or covered.all():
                state = "covers the whole picture" if covered.any() else "is empty"
                raise InputError(f"{which} {state}: select the object alone")

    @classmethod
    def load(cls, path: Path | str, mask_index: int | None = None) -> JobInput:
        """One object of a folder or picture, as `infer` reads it.

        Raises:
            InputError: as `load_object`.
        """
        given = load_object(path, mask_index)
        own = given.mask_path != given.image_path
        source, number = (Path(path), int(given.mask_path.stem)) if own else (None, 0)
        return cls(
            given.image, (given.mask,), given.name.rsplit("_", 1)[0], given.pointmap, source, number, given.notices
        )

    @property
    def folder_name(self) -> str:
        """The name as one of a folder."""
        return result_name(self.name.lstrip("-"), "")

    def save(self, folder: Path) -> None:
        """Write image.png, 0.png, 1.png ... and the pointmap, which `infer` and `scene` read back without a loss."""
        from PIL import Image

        folder.mkdir(parents=True)
        _save_png(folder / "image.png", Image.fromarray(np.ascontiguousarray(self.image)))
        for number, mask in enumerate(self.masks):
            _save_png(folder / f"{number}.png", Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255))
        if self.pointmap is not None:
            with atomic_write(folder / "pointmap.npy") as file:
                np.save(file, np.asarray(self.pointmap, np.float32))


def _save_png(path: Path, picture: Any) -> None:
    with atomic_write(path) as file:
        picture.save(file, "PNG", compress_level=1)


@dataclass(frozen=True, slots=True)
class Example:
    """A folder of examples/ to pick.

    Args:
        name: of the folder. image: its picture. masks: number to file.
    """

    name: str
    image: Path
    masks: dict[int, Path]

    @property
    def path(self) -> Path:
        """As the command line takes it."""
        return Path("examples") / self.name

    def input(self, number: int | None = None) -> JobInput:
        """The object of a mask (None: of the lowest number)."""
        return JobInput.load(self.path, number)

    def scene(self) -> JobInput:
        """All objects."""
        first = self.input()
        masks = tuple(read_mask(path) for path in self.masks.values())
        return JobInput(first.image, masks, self.name, first.pointmap, self.path, notices=first.notices)


def examples() -> list[Example]:
    """The examples that are here: all of them in a checkout, the teapot in an installed copy."""
    found = []
    for folder in sorted(resource("examples").iterdir()):
        if folder.is_dir() and (image := picture_of(folder)) is not None and (masks := list_masks(folder)):
            found.append(Example(folder.name, image, masks))
    return found


def read_upload(path: Path | str) -> NDArray[np.uint8]:
    """The picture of an uploaded file, turned upright as its EXIF data say: [H, W, 3] uint8.

    Raises:
        InputError: it is no picture, or a damaged or too large one.
    """
    return read_picture(Path(path)).upright.rgb
