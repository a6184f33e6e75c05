"""What a user marked in a picture: clicks, a box, strokes of a brush."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError

__all__ = ["Click", "Marks"]


@dataclass(frozen=True, slots=True)
class Click:
    """A click at pixel (x, y) from the top left, on the object or, with `positive` False, on the background."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Everything marked in one picture; the mask agrees with all of it.

    Args:
        clicks: on the object and on the background.
        box: (left, top, right, bottom) in pixels around the object; nothing outside of it is selected.
        brush: [H, W] bool, strokes on the object.
        eraser: [H, W] bool, strokes on the background.
    """

    clicks: Sequence[Click] = ()
    box: tuple[float, float, float, float] | None = None
    brush: NDArray[np.bool_] | None = field(default=None)
    eraser: NDArray[np.bool_] | None = field(default=None)

    def checked(self, height: int, width: int) -> Marks:
        """The marks for a picture of this size: the box in order and cut to the picture.

        Raises:
            InputError: nothing on the object is marked, a mark is outside of the picture or of the box, a stroke has
                another size than the picture, or the box is empty or the whole picture.
        """
        for click in self.clicks:
            if not (math.isfinite(click.x) and math.isfinite(click.y)):
                raise InputError(f"the click at {click.x}, {click.y} is no position: give x and y in pixels")
            if not (0 <= click.x < width and 0 <= click.y < height):
                raise InputError(
                    f"the click at {click.x:g}, {click.y:g} is outside of the picture of {width}x{height} pixels:"
                    " click on the object"
                )
        strokes = [self._stroke(stroke, height, width) for stroke in (self.brush, self.eraser)]
        brush, eraser = (stroke if stroke is not None and stroke.any() else None for stroke in strokes)
        box = None if self.box is None else _checked_box(self.box, height, width)
        positive = [click for click in self.clicks if click.positive]
        if not positive and brush is None and box is None:
            raise InputError("nothing is selected: click on the object, draw a box around it, or brush over it")
        if box is not None:
            left, top, right, bottom = box
            for click in positive:
                if not (left <= click.x < right and top <= click.y < bottom):
                    raise InputError(
                        f"the click at {click.x:g}, {click.y:g} is outside of the box {left:g},{top:g},{right:g},"
                        f"{bottom:g}: draw the box around the whole object"
                    )
        for click in self.clicks:
            against = eraser if click.positive else brush
            if against is not None and against[int(click.y), int(click.x)]:
                raise InputError(
                    f"the click at {click.x:g}, {click.y:g} and a stroke over it disagree: remove one of them"
                )
        if brush is not None and eraser is not None and (brush & eraser).any():
            raise InputError("a stroke on the object crosses a stroke on the background: remove one of them")
        return Marks(tuple(self.clicks), box, brush, eraser)

    @staticmethod
    def _stroke(stroke: NDArray[np.bool_] | None, height: int, width: int) -> NDArray[np.bool_] | None:
        if stroke is None:
            return None
        if stroke.shape != (height, width):
            raise InputError(
                f"the strokes are for a picture of {'x'.join(str(n) for n in stroke.shape[::-1])} pixels, and this one"
                f" is {width}x{height}: draw them again"
            )
        return np.asarray(stroke, bool)


def _checked_box(box: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise InputError(f"the box {box} is not left, top, right, bottom in pixels")
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    said = f"the box {left:g},{top:g},{right:g},{bottom:g}"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise InputError(f"{said} is outside of the picture of {width}x{height} pixels: draw it around the object")
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if right - left < 2 or bottom - top < 2:
        raise InputError(f"{said} is too small: draw it around the whole object")
    if left < 1 and top < 1 and right > width - 1 and bottom > height - 1:
        raise InputError(f"{said} is the whole picture: draw it closer to the object, or click on the object instead")
    return left, top, right, bottom
