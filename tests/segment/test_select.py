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


def two_parts() -> tuple[np.ndarray, np.ndarray]:
    """A red disc beside a green square that touches it, on grey."""
    image, mask = disc()
    square = np.zeros_like(mask)
    square[40:80, 98:140] = True
    square &= ~mask
    image[square] = (30, 170, 40)
    return image, square


def test_a_further_click_adds_or_removes_a_part():
    image, square = two_parts()
    _, whole = disc()
    selector = Selector(image)
    clicks = [Click(64, 60)]
    one = selector.select(Marks(clicks)).mask
    changed = selector.select(Marks([*clicks, Click(120, 60, not one[60, 120])])).mask
    assert overlap(changed, whole if one[60, 120] else whole | square) > 0.97


def test_every_mark_is_on_its_side():
    image, square = two_parts()
    brush, eraser = np.zeros((2, *square.shape), bool)
    brush[58:62, 50:70], eraser[50:70, 110:130] = True, True
    mask = Selector(image).select(Marks([Click(90, 60), Click(3, 3, False)], brush=brush, eraser=eraser)).mask
    assert mask[brush].all() and not mask[eraser].any()
    assert mask[60, 90] and not mask[3, 3]


def test_a_box_selects_what_fills_it_and_nothing_outside():
    image, square = two_parts()
    _, whole = disc()
    mask = Selector(image).select(Marks(box=(24, 20, 144, 100))).mask
    assert overlap(mask, whole | square) > 0.95
    assert not mask[:, 144:].any() and not mask[:20].any()


def test_a_flat_picture_gives_a_part_around_the_click():
    mask = select(np.full((64, 64, 3), 90, np.uint8), (32, 32))
    assert mask[32, 32] and not mask.all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 3000), (3000, 9), (513, 511)])
def test_selects_in_pictures_of_odd_sizes(shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    mask = Selector(image).select(Marks([Click(shape[1] // 2, shape[0] // 2)])).mask
    assert mask.shape == shape and mask[shape[0] // 2, shape[1] // 2]


def test_the_same_marks_give_the_same_mask():
    image, _ = two_parts()
    marks = Marks([Click(64, 60), Click(120, 60)])
    assert (Selector(image).select(marks).mask == Selector(image).select(marks).mask).all()
