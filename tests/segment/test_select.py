"""Selecting an object by clicks, a box or strokes."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d.errors import InputError
from fast_sam3d.segment.select import Click, Marks, Selector, select


def disc(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on grey, and its mask."""
    y, x = np.indices((height, width))
    mask = (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2
    image = np.full((height, width, 3), 120, np.uint8)
    image[mask] = (200, 40, 30)
    return image, mask


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_one_click_selects_a_disc():
    image, truth = disc()
    assert overlap(select(image, (64, 60)), truth) > 0.97


def test_full_size_border_follows_the_picture():
    image, truth = disc(1200, 1600)
    assert overlap(select(image, (640, 600)), truth) > 0.995


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (Marks(), "nothing is selected"),
        (Marks([Click(5, 5, False)]), "nothing is selected"),
        (Marks([Click(160, 60)]), "outside of the picture"),
        (Marks([Click(-1, 60)]), "outside of the picture"),
        (Marks([Click(float("nan"), 60)]), "no position"),
        (Marks(box=(0, 0, 160, 120)), "the whole picture"),
        (Marks(box=(200, 0, 300, 120)), "outside of the picture"),
        (Marks(box=(10, 10, 11, 11)), "too small"),
        (Marks([Click(100, 100)], box=(10, 10, 50, 50)), "outside of the box"),
        (Marks(brush=np.zeros((120, 160), bool)), "nothing is selected"),
        (Marks(brush=np.ones((12, 16), bool)), "draw them again"),
        (Marks([Click(5, 5)], eraser=np.ones((120, 160), bool)), "disagree"),
    ],
)
def test_refuses_marks_that_select_nothing(marks: Marks, said: str):
    with pytest.raises(InputError, match=said):
        Selector(disc()[0]).select(marks)
