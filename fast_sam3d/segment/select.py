"""The mask of what a user marked in a picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.segment.enlarge import enlarge
from fast_sam3d.segment.graph import Graph, build, reduce
from fast_sam3d.segment.marks import Click, Marks
from fast_sam3d.segment.propose import add, boxed, first, remove
from fast_sam3d.segment.sam2 import Sam2

__all__ = ["Click", "Marks", "Selection", "Selector", "select"]

SIDE = 512
"""Longer side of the picture that is cut into superpixels, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """A mask from marks.

    Args:
        mask: [H, W] bool.
        seconds: that it took.
        method: "cut" or "sam2".
    """

    mask: NDArray[np.bool_]
    seconds: float
    method: str


class Selector:
    """Masks of one picture, from marks that may grow: what is computed of the picture alone is kept.

    Args:
        image: [H, W, 3] uint8, RGB.
        sam2: a loaded SAM 2, which takes the place of the cut wherever clicks or a box are given.

    Raises:
        InputError: the image is none, or too small.
    """

    def __init__(self, image: NDArray[np.uint8], sam2: Sam2 | None = None) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 8:
            raise InputError("the picture is not [H, W, 3] uint8 of at least 8 pixels a side: read it as RGB")
        self.image = image
        self._sam2 = sam2
        self._small = np.ascontiguousarray(reduce(image, SIDE))
        self._graph: Graph | None = None

    def prepare(self) -> None:
        """Cut the picture into superpixels now, before the first click."""
        if self._graph is None:
            self._graph = build(self._small)

    def select(self, marks: Marks) -> Selection:
        """The mask of the marked object. It contains every positive and no negative mark.

        Raises:
            InputError: nothing on the object is marked, a mark is outside of the picture, marks contradict each other,
                or the object would be the whole picture.
        """
        begin = time.perf_counter()
        marks = marks.checked(*self.image.shape[:2])
        if self._sam2 is not None and (marks.box is not None or any(click.positive for click in marks.clicks)):
            mask = self._kept(self._sam2.mask(self.image, marks), marks)
            return Selection(_checked(mask), time.perf_counter() - begin, "sam2")
        self.prepare()
        assert self._graph is not None
        graph, small = self._graph, self._small
        chosen = self._chosen(graph, marks)
        inside, outside = self._strokes(marks.brush), self._strokes(marks.eraser)
        mask = (chosen[graph.labels] | inside) & ~outside
        full = enlarge(self.image, small, mask)
        return Selection(_checked(self._kept(full, marks)), time.perf_counter() - begin, "cut")

    def _chosen(self, graph: Graph, marks: Marks) -> NDArray[np.bool_]:
        """[N] the superpixels of the object: of box and strokes, or of the first click; then a click at a time."""
        inside, outside = _touched(graph, self._strokes(marks.brush)), _touched(graph, self._strokes(marks.eraser))
        outside &= ~inside
        clicks = list(marks.clicks)
        if marks.box is not None:
            now = boxed(graph, graph.at(self._within(marks.box)) > 0.5, inside, outside)
        else:
            if not inside.any():
                begin = next(click for click in marks.clicks if click.positive)
                clicks = [click for click in marks.clicks if click is not begin]
                inside[self._superpixel(graph, begin)] = True
                outside &= ~inside
            now = first(graph, inside, outside)
        for click in clicks:
            mark = np.zeros(len(inside), bool)
            mark[self._superpixel(graph, click)] = True
            ours, theirs = (inside, outside) if click.positive else (outside, inside)
            if (mark & theirs).any():
                continue  # both in one superpixel: `_kept` puts the pixel on its side
            ours |= mark
            if click.positive and not now[mark].all():
                now = add(graph, now, mark, inside, outside)
            elif not click.positive and now[mark].any():
                now = remove(graph, now, mark, inside, outside)
        return now

    def _superpixel(self, graph: Graph, click: Click) -> int:
        height, width = self._small.shape[:2]
        row, column = int(click.y * height / self.image.shape[0]), int(click.x * width / self.image.shape[1])
        return int(graph.labels[row, column])

    def _strokes(self, stroke: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """[h, w] the reduced pixels of strokes."""
        height, width = self._small.shape[:2]
        seeds = np.zeros((height, width), bool)
        if stroke is not None:
            y, x = np.nonzero(stroke)
            seeds[y * height // self.image.shape[0], x * width // self.image.shape[1]] = True
        return seeds

    def _within(self, box: Sequence[float]) -> NDArray[np.bool_]:
        """[h, w] the reduced pixels whose centre is in a box of the full picture."""
        height, width = self._small.shape[:2]
        x = (np.arange(width) + 0.5) * self.image.shape[1] / width
        y = (np.arange(height) + 0.5) * self.image.shape[0] / height
        left, top, right, bottom = box
        return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))

    def _kept(self, mask: NDArray[np.bool_], marks: Marks) -> NDArray[np.bool_]:
        """The full mask with every mark on its side."""
        mask = mask.copy()
        if marks.box is not None:
            left, top, right, bottom = (round(value) for value in marks.box)
            mask[:top] = mask[bottom:] = False
            mask[:, :left] = mask[:, right:] = False
        for stroke, value in ((marks.brush, True), (marks.eraser, False)):
            if stroke is not None:
                mask[stroke] = value
        for click in marks.clicks:
            mask[int(click.y), int(click.x)] = click.positive
        return mask


def select(image: NDArray[np.uint8], *clicks: tuple[float, float], **marks: Any) -> NDArray[np.bool_]:
    """The mask [H, W] of the object at some clicks (x, y); keywords as of `Marks`, such as box=(0, 0, 90, 90)."""
    given = [Click(*click) for click in clicks] + list(marks.pop("clicks", ()))
    return Selector(image).select(Marks(given, **marks)).mask


def _checked(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if mask.all():
        raise InputError("the selection covers the whole picture: mark some of the background, or draw a box")
    if not mask.any():
        raise InputError("nothing was selected: click on the middle of the object, or draw a box around it")
    return mask


def _touched(graph: Graph, seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    touched = np.zeros(len(graph.area), bool)
    touched[graph.labels[seeds]] = True
    return touched
