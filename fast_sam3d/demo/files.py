"""Masks and pointmaps that are given to the page as files; what is said of them names the page's controls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fast_sam3d.config.settings import POINTMAP_AXES
from fast_sam3d.demo.choice import Choice
from fast_sam3d.demo.words import in_page
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.labels import chosen, labelled_objects
from fast_sam3d.inputs.masks import read_mask
from fast_sam3d.inputs.pointmaps import read_pointmap

__all__ = ["AXES", "with_mask", "with_pointmap"]

AXES = POINTMAP_AXES


def with_mask(choice: Choice, path: Path, label: str = "", threshold: float = 0.0) -> tuple[Choice, str]:
    """The mask in a file, selected; and what was odd about it.

    Args:
        label: number or name of the object in a label map; empty: the file is one mask.
        threshold: see `read_mask`; 0: by the kind of file.

    Raises:
        InputError: it is none, or of another size than the picture.
    """
    notices: list[str] = []
    with _named(path):
        if not 0 <= threshold <= 1:
            raise InputError(f"the mask threshold is {threshold:g}: give 0 to 1, where 0 leaves it to the kind of file")
        if label.strip():
            mask = chosen(labelled_objects(path, path, notices), label, path).draw()
        else:
            mask = read_mask(path, threshold or None, notices)
        new = choice.use(mask)
    return new, in_page(". ".join(notices).replace(str(path), path.name))


def with_pointmap(choice: Choice, path: Path, axes: str = AXES[0]) -> tuple[Choice, str]:
    """The picture with the points in a file, see `read_pointmap`; and what was odd about them. Raises InputError."""
    with _named(path):
        found = read_pointmap(path, choice.picture.image.shape[:2], choice.mask, axes)
    new = replace(choice, picture=replace(choice.picture, pointmap=found.points, example=None))
    return new, in_page(". ".join(found.notices).replace(str(path), path.name))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say an error in words of the page, with the file's name in place of its path."""
    try:
        yield
    except InputError as error:
        raise InputError(in_page(str(error).replace(str(path), path.name))) from error
