"""The objects of a benchmark: held-out objects with ground truth, or the user's own pictures without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fast_sam3d.bench.runs import Given
from fast_sam3d.errors import ConfigError, InputError
from fast_sam3d.metrics import Reconstruction

if TYPE_CHECKING:
    from fast_sam3d.checkpoints.load import Checkpoint

PICTURES = (".png", ".webp", ".tif", ".tiff")
"""Formats that can hold the mask as transparency."""


@dataclass(frozen=True)
class BenchObject:
    """One object: its name, the pipeline's input, and the ground truth or None."""

    name: str
    given: Given
    truth: Reconstruction | None = None


class Identified(Protocol):
    """Something with an identity."""

    def identity(self) -> object:
        """JSON-ready; changes when the object of a name changes."""


class Objects(Identified, Protocol):
    """A source of objects. Pickled, so that each process loads its own."""

    @property
    def truth(self) -> bool:
        """Whether there is ground truth."""

    def names(self) -> Sequence[str]:
        """The names of all objects, in order."""

    def load(self, name: str) -> BenchObject:
        """Load one of them."""


@dataclass(frozen=True)
class HeldOut:
    """`count` held-out objects of the embedded model's families, by their seeds, without the first `skip`."""

    count: int
    truth: bool = True
    skip: int = 0

    def names(self) -> Sequence[str]:
        from fast_sam3d.bench.held_out import FIRST_SEED

        return [str(FIRST_SEED + self.skip + i) for i in range(self.count)]

    def load(self, name: str) -> BenchObject:
        from fast_sam3d.bench.held_out import Subject

        subject = Subject.of(int(name))
        return BenchObject(name, subject.given, subject.truth)

    def identity(self) -> object:
        return "held out"


@dataclass(frozen=True)
class Folder:
    """The masked objects of a folder: of its picture, of the pictures in its subfolders, or of RGBA pictures.

    Args:
        path: a folder as `fast-sam3d infer --image_path` takes it, a folder of such folders, or RGBA pictures with the
            mask in the alpha channel. Each mask is an object.
        count: at most so many; None takes all.
        pointmap_axes: frame of the pointmaps, as for `fast_sam3d.inputs.load.load_object`.
        model: that the objects are for, of `config.settings.MODELS`.
    """

    path: Path
    count: int | None = None
    pointmap_axes: str = "auto"
    truth: bool = False
    model: str = "sam3d"

    def names(self) -> Sequence[str]:
        """Relative path of the picture's folder or file, with "#" and the mask's number where there is one.

        Raises:
            InputError: no picture with a mask.
        """
        from fast_sam3d.inputs.load import list_masks

        if not self.path.is_dir():
            raise InputError(f"--image_path {self.path} is not a folder: name one with pictures and their masks")
        inside = sorted(self.path.iterdir(), key=lambda item: item.name)
        places = [self.path, *(item for item in inside if item.is_dir())]
        found = [
            f"{place.relative_to(self.path)}#{number}"
            for place in places
            if _has_picture(place)
            for number in list_masks(place)
        ]
        if not found:
            found = [item.name for item in inside if item.is_file() and item.suffix.lower() in PICTURES]
        if not found:
            raise InputError(
                f"--image_path {self.path} holds no picture with a mask: give a folder with image.png and masks 0.png,"
                " 1.png ..., a folder of such folders, or RGBA pictures with the mask in the alpha channel"
            )
        return found[: self.count]

    def load(self, name: str) -> BenchObject:
        from fast_sam3d.inputs.load import load_object

        place, _, number = name.rpartition("#") if "#" in name else (name, "", "")
        given = load_object(self.path / place, int(number) if number else None, pointmap_axes=self.pointmap_axes)
        return BenchObject(name, Given(given.image, given.mask_for(self.model), given.pointmap))

    def identity(self) -> object:
        from fast_sam3d.outputs.digests import file_digest

        files = [item for item in self.path.rglob("*") if item.is_file() and not item.name.startswith(".")]
        digest = file_digest(files, self.path)
        return digest if self.pointmap_axes == "auto" else [digest, self.pointmap_axes]


def held_out(checkpoint: Checkpoint, count: int) -> HeldOut:
    """The held-out objects for a checkpoint.

    Raises:
        ConfigError: they are not for its model.
    """
    if checkpoint.kind != "mini":
        raise ConfigError(
            f"the held-out objects are for the embedded model, and the weights are {checkpoint.tag}: add --image_path"
            " DIR with your own pictures, or --tag mini"
        )
    return HeldOut(count)


def _has_picture(folder: Path) -> bool:
    return any(item.stem.lower() == "image" and item.is_file() for item in folder.iterdir())
