"""What somebody chose in the picture of the page: the marks so far, the mask that they give, and pictures of both."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.demo.inputs import Example, JobInput, read_upload
from fast_sam3d.demo.words import in_page
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.masks import read_mask
from fast_sam3d.inputs.pointmaps import check_known
from fast_sam3d.segment.sam2 import Sam2
from fast_sam3d.segment.select import Click, Marks, Selector

__all__ = ["Choice", "Picture", "jpeg", "open_example", "open_picture"]

SHOWN = 1280
"""Longer side of the picture that the page shows, in pixels; a small one is enlarged to half of it."""
DIMMED, OUTLINE = (16, 24, 40, 150), (255, 255, 255, 255)
"""Red, green, blue and opacity over what is not selected, and of the outline."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that somebody chose.

    Args:
        image: [H, W, 3] uint8.
        name: for its results.
        selector: finds masks in it.
        masks: that came with it, by number.
        pointmap: [H, W, 3] float32, or None.
        example: where it came from, if it is one.
    """

    image: NDArray[np.uint8]
    name: str
    selector: Selector
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    pointmap: NDArray[np.float32] | None = None
    example: Example | None = None

    @property
    def scale(self) -> float:
        """Pixels shown per pixel."""
        longer = max(self.image.shape[:2])
        return min(SHOWN / longer, max(1.0, SHOWN / 2 / longer))

    def shown(self) -> dict[str, Any]:
        """As the page shows it: an address, and the size in full."""
        from PIL import Image

        height, width = self.image.shape[:2]
        size = max(1, round(width * self.scale)), max(1, round(height * self.scale))
        picture = Image.fromarray(self.image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return {"url": jpeg(picture), "width": width, "height": height}


class Box(NamedTuple):
    """Around the object, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Stroke:
    """Of a brush, in pixels."""

    points: tuple[tuple[float, float], ...]
    radius: float
    positive: bool

    def area(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels under it, in a picture of this height and width."""
        from PIL import Image, ImageDraw

        stroke, radius = Image.new("1", size[::-1]), self.radius
        draw = ImageDraw.Draw(stroke)
        draw.line(self.points, fill=1, width=max(1, round(2 * radius)), joint="curve")
        for x, y in (self.points[0], self.points[-1]):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1)
        return np.asarray(stroke)


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A mask [H, W] that was uploaded, or that came with the picture under a number."""

    mask: NDArray[np.bool_]
    number: int | None = None


Action = Click | Box | Stroke | Given


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was done in a picture, in order, and the mask that it gives.

    Args:
        done: clicks, boxes and strokes. A box, and a mask that is given, start anew.
        mask: [H, W] bool; None while nothing is selected.
    """

    picture: Picture
    done: tuple[Action, ...] = ()
    mask: NDArray[np.bool_] | None = None

    def click(self, x: float, y: float, keep: bool = True) -> Choice:
        """With a click on the object, or on what does not belong to it. Raises InputError."""
        height, width = self._size
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"the click at {x:g}, {y:g} is outside of the picture of {width}x{height} pixels")
        if not self.done and keep and (number := self._given_at(x, y)) is not None:
            return self.take(number)
        return self._with(Click(x, y, keep))

    def within(self, corners: Sequence[float]) -> Choice:
        """With a box around the object: left, top, right, bottom. Raises InputError."""
        return self._with(Box(corners[0], corners[1], corners[2], corners[3]))

    def brush(self, points: Sequence[Sequence[float]], radius: float, keep: bool = True) -> Choice:
        """With a stroke of a brush of this radius, in pixels. Raises InputError."""
        if not points:
            raise InputError("the stroke is empty: brush over the object")
        return self._with(Stroke(tuple((x, y) for x, y in points), max(radius, 0.5), keep))

    def take(self, number: int) -> Choice:
        """With a mask that came with the picture."""
        return self._with(Given(self.picture.masks[number], number))

    def use(self, mask: NDArray[np.bool_]) -> Choice:
        """With a mask [h, w]. Raises InputError unless it has the picture's size."""
        height, width = self._size
        if mask.shape != self._size:
            raise InputError(
                f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and the picture {width}x{height}: save the mask at"
                " the size of the picture"
            )
        return self._with(Given(mask))

    def undo(self) -> Choice:
        """Without the last action."""
        left = self.done[:-1]
        return Choice(self.picture, left, self._found(left)) if left else Choice(self.picture)

    def clear(self) -> Choice:
        """Without any."""
        return Choice(self.picture)

    def input(self) -> JobInput:
        """What a job is given. Raises InputError where nothing is selected."""
        if self.mask is None:
            raise InputError("no object is selected: click on one in the picture, draw a box around it, or brush it")
        picture, number = self.picture, self._number
        if picture.example is not None and number is not None:
            return picture.example.input(number)
        if picture.pointmap is not None:
            try:
                check_known(picture.pointmap, self.mask, Path("of the picture"))
            except InputError as error:
                raise InputError(in_page(str(error))) from error
        return JobInput(picture.image, (self.mask,), picture.name, picture.pointmap)

    def shown(self, note: str = "", wrong: bool = False) -> dict[str, Any]:
        """As the page shows it: marks, mask, and a sentence."""
        marks = self.done[self._start :]
        clicks = [[mark.x, mark.y, mark.positive] for mark in marks if isinstance(mark, Click)]
        box = next((tuple(mark) for mark in marks if isinstance(mark, Box)), None)
        mask = None if self.mask is None else _overlay(self.mask, self.picture.scale)
        return {"mask": mask, "points": clicks, "box": box, "note": note or self.note, "wrong": wrong}

    @property
    def note(self) -> str:
        """What there is to know, or to do."""
        if self.mask is None:
            return "Click on the object. Alt-click, or Remove, takes something away again."
        count, share = int(self.mask.sum()), f"{100 * self.mask.mean():.1f} % of the picture is selected"
        if share.startswith("0.0"):
            share = f"only {count} pixel{'s are' if count > 1 else ' is'} selected"
        return share if self._number is None else f"{share}, by mask {self._number} of the example"

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.picture.image.shape[:2]
        return height, width

    @property
    def _number(self) -> int | None:
        """Of the given mask that is selected as it is, perhaps after marks that change nothing."""
        given = self.done[self._start] if self.done else None
        if not isinstance(given, Given) or self.mask is None:
            return None
        return given.number if np.array_equal(self.mask, given.mask) else None

    @property
    def _start(self) -> int:
        return max((i for i, action in enumerate(self.done) if isinstance(action, (Box, Given))), default=0)

    def _given_at(self, x: float, y: float) -> int | None:
        """The smallest mask of the picture at a pixel."""
        there = {n: int(mask.sum()) for n, mask in self.picture.masks.items() if mask[int(y), int(x)]}
        return min(there, key=lambda number: there[number]) if there else None

    def _with(self, action: Action) -> Choice:
        done = (*self.done, action)
        return Choice(self.picture, done, self._found(done))

    def _found(self, done: tuple[Action, ...]) -> NDArray[np.bool_]:
        recent = done[Choice(self.picture, done)._start :]
        if not any(isinstance(act, (Box, Given)) or act.positive for act in recent):
            raise InputError("nothing is selected yet: mark the object first")
        mask = self._corrected(recent) if isinstance(recent[0], Given) else self._segmented(recent)
        if not mask.any():
            raise InputError("nothing would be left of the selection: the last mark is not used")
        if mask.all():
            raise InputError("the whole picture would be selected, so the last mark is not used: mark the object alone")
        return mask

    def _segmented(self, marks: Sequence[Action]) -> NDArray[np.bool_]:
        """By clicks and a box, with what strokes paint; by the strokes alone where there is nothing else.

        Of a click and a stroke over it the later one counts.
        """
        strokes: list[tuple[NDArray[np.bool_], bool]] = []
        for mark in marks:
            if isinstance(mark, Stroke):
                strokes.append((mark.area(self._size), mark.positive))
            elif isinstance(mark, Click):
                at = int(mark.y), int(mark.x)
                strokes = [one for one in strokes if one[1] == mark.positive or not one[0][at]]
        clicks = tuple(mark for mark in marks if isinstance(mark, Click))
        box = next((mark for mark in marks if isinstance(mark, Box)), None)
        if clicks or box is not None:
            mask = self.picture.selector.select(Marks(clicks, box)).mask.copy()
            for area, positive in strokes:
                mask[area] = positive
            return mask
        painted = np.zeros(self._size, np.int8)
        for area, positive in strokes:
            painted[area] = 1 if positive else -1
        return self.picture.selector.select(Marks(brush=painted > 0, eraser=painted < 0)).mask

    def _corrected(self, done: Sequence[Action]) -> NDArray[np.bool_]:
        """A given mask with what strokes paint, and with what clicks find, added or removed."""
        mask = done[0].mask.copy()  # type: ignore[union-attr]
        for action in done[1:]:
            if isinstance(action, Stroke):
                mask[action.area(self._size)] = action.positive
            elif isinstance(action, Click):
                number = self._given_at(action.x, action.y)
                found = None if number is None else self.picture.masks[number]
                if found is None or (found[mask].any() and not action.positive):
                    found = self.picture.selector.select(Marks((Click(action.x, action.y),))).mask
                mask[found] = action.positive
        return mask


def open_picture(path: Path | str, name: str, sam2: Sam2 | None = None) -> Choice:
    """A file that somebody uploaded; `sam2` selects in it, if given. Raises InputError unless it is a picture."""
    try:
        image = read_upload(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    return Choice(_picture(image, sam2, Path(name).stem or "picture"))


def open_example(example: Example, sam2: Sam2 | None = None) -> Choice:
    """An example with its masks, one of which is selected where there is one alone."""
    first = example.input()
    masks = {number: read_mask(path) for number, path in example.masks.items()}
    picture = _picture(first.image, sam2, example.name, masks, first.pointmap, example)
    return Choice(picture).take(next(iter(masks))) if len(masks) == 1 else Choice(picture)


def _picture(image: NDArray[np.uint8], sam2: Sam2 | None, name: str, *more: Any) -> Picture:
    selector = Selector(image, sam2)
    selector.prepare()
    return Picture(image, name, selector, *more)


def _overlay(mask: NDArray[np.bool_], scale: float) -> str:
    """The address of a mask as a picture to lay over: what is not selected is dimmed, and there is an outline."""
    from PIL import Image
    from scipy.ndimage import binary_erosion

    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    levels = inside.astype(np.uint8)
    levels[inside & ~binary_erosion(inside, iterations=2, border_value=0)] = 2
    picture = Image.fromarray(levels, "P")
    picture.putpalette([*DIMMED, 0, 0, 0, 0, *OUTLINE], "RGBA")
    return _address(picture, "PNG", compress_level=4)


def jpeg(picture: Any) -> str:
    """The address of a Pillow picture that holds the picture itself."""
    return _address(picture, "JPEG", quality=88)


def _address(picture: Any, format: str, **options: Any) -> str:
    data = io.BytesIO()
    picture.save(data, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
