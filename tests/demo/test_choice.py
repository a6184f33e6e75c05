"""Choosing an object in a picture: marks in order, each of which can be undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.demo.asked import job_settings, marked
from fast_sam3d.demo.choice import Choice, open_example, open_picture
from fast_sam3d.demo.files import with_mask, with_pointmap
from fast_sam3d.demo.inputs import examples
from fast_sam3d.errors import ConfigError, InputError

SETTINGS = ("default", 42, 25, 25, ["mesh"], 0, 0)


@pytest.fixture
def square(tmp_path) -> Choice:
    """A red square of 40x40 pixels in the middle of a grey picture of 100x80."""
    pixels = np.full((80, 100, 3), 128, np.uint8)
    pixels[20:60, 30:70] = (220, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "a b.png")
    return open_picture(tmp_path / "a b.png", "a b.png")


def test_a_click_selects_and_is_undone(square):
    chosen = square.click(50, 40)
    assert chosen.mask[40, 50] and abs(chosen.mask.sum() - 1600) < 200
    assert chosen.input().name == "a b"
    assert chosen.undo().mask is None and chosen.clear().done == ()


def test_later_strokes_take_precedence(square):
    chosen = square.click(50, 40).brush([(40, 40), (60, 40)], 4, keep=False)
    assert not chosen.mask[40, 50] and chosen.mask[25, 50]
    again = chosen.brush([(45, 40), (55, 40)], 2)
    assert again.mask[40, 50]
    np.testing.assert_array_equal(again.undo().mask, chosen.mask)


def test_a_box_starts_anew(square):
    chosen = square.click(5, 5).within((25, 15, 75, 65))
    assert not chosen.mask[5, 5] and chosen.mask[40, 50]
    assert chosen.shown()["points"] == [] and chosen.shown()["box"] == (25, 15, 75, 65)


def test_an_example_is_selected_by_its_own_masks():
    scene = open_example(next(example for example in examples() if example.name == "scene"))
    mask = scene.picture.masks[1]
    y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 2]
    chosen = scene.click(x, y)
    np.testing.assert_array_equal(chosen.mask, mask)
    assert chosen.input().number == 1 and chosen.input().source is not None
    again = chosen.click(x, y)
    assert again.input().source == chosen.input().source and again.shown()["points"] == [[x, y, True]]
    less = chosen.brush([(x, y), (x, y)], 3, keep=False)
    assert less.mask.sum() < mask.sum() and less.input().source is None


def test_a_mask_from_a_file(square, tmp_path):
    mask = np.zeros((80, 100), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(with_mask(square, tmp_path / "mask.png")[0].mask, mask > 0)
    Image.fromarray(mask[:40]).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="100x40 pixels and the picture 100x80"):
        with_mask(square, tmp_path / "small.png")


def test_files_are_refused_in_words_of_the_page(square, tmp_path):
    labels = np.zeros((80, 100), np.uint8)
    labels[:10], labels[20:30] = 1, 2
    np.save(tmp_path / "labels.npy", labels)
    assert with_mask(square, tmp_path / "labels.npy", "2")[0].mask.sum() == 1000
    faint = np.full((80, 100, 4), 9, np.uint8)
    faint[:40, :, 3] = 0
    Image.fromarray(faint).save(tmp_path / "faint.png")
    assert "a mask threshold of 0.5 leaves it out" in with_mask(square, tmp_path / "faint.png")[1]
    points = np.full((80, 100, 3), np.nan, np.float32)
    np.save(tmp_path / "points.npy", points)
    for refused, words in (
        (lambda: with_mask(square, tmp_path / "labels.npy", "7"), 'labels.npy holds no object 7: .* choose one with "'),
        (lambda: with_mask(square, tmp_path / "labels.npy", "1", 7.0), "the mask threshold is 7: give 0 to 1"),
        (lambda: with_pointmap(square, tmp_path / "labels.npy"), "labels.npy has shape"),
        (
            lambda: with_pointmap(square.click(50, 40), tmp_path / "points.npy"),
            'no known point .* name its axes with "axes"',
        ),
    ):
        with pytest.raises(InputError, match=words) as error:
            refused()
        assert "--" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_pointmap_from_a_file_is_converted_and_checked_on_the_object(square, tmp_path):
    row, column = np.mgrid[:80, :100].astype(np.float32)
    points = np.stack([(column - 50) / 100, (row - 40) / 100, np.ones_like(row)], axis=-1)  # OpenCV: +x right, +y down
    np.save(tmp_path / "points.npy", points)
    own, _ = with_pointmap(square.click(50, 40), tmp_path / "points.npy")
    np.testing.assert_array_equal(own.input().pointmap, points * (-1, -1, 1))
    points[15:65, 25:75] = np.nan
    np.save(tmp_path / "points.npy", points)
    own, _ = with_pointmap(square, tmp_path / "points.npy", "opencv")
    with pytest.raises(InputError, match="has no known point on the object"):
        own.click(50, 40).input()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "click", "x": 500, "y": 3, "keep": True}, "outside of the picture"),
        ({"kind": "click", "x": -1, "y": 3, "keep": True}, "outside of the picture"),
        ({"kind": "click", "x": float("nan"), "y": 3, "keep": True}, "outside of the picture"),
        ({"kind": "click", "x": 50, "y": 40, "keep": False}, "nothing is selected yet"),
        ({"kind": "click", "x": "left", "y": 3, "keep": True}, "cannot be read"),
        ({"kind": "click"}, "cannot be read"),
        ({"kind": "box", "corners": [5, 5, 5, 5]}, "too small"),
        ({"kind": "box", "corners": [0, 0, 100, 80]}, "whole picture"),
        ({"kind": "box", "corners": [1]}, "cannot be read"),
        ({"kind": "brush", "points": [], "radius": 3, "keep": True}, "stroke is empty"),
        ({"kind": "brush", "points": [[1, 2, 3]], "radius": 3, "keep": True}, "cannot be read"),
        ({"kind": "brush", "points": [[50, 40]], "radius": float("inf"), "keep": True}, "cannot be read"),
        ({"kind": "remove everything"}, "no mark"),
    ],
)
def test_wrong_marks_are_refused_with_a_sentence(square, asked, said):
    with pytest.raises(InputError, match=said):
        marked(square, asked)


def test_a_selection_of_a_few_pixels_is_counted(square):
    few = Choice(square.picture, mask=np.arange(8000).reshape(80, 100) < 3)
    assert few.note == "only 3 pixels are selected"


def test_nothing_selected_is_no_input(square):
    with pytest.raises(InputError, match="no object is selected"):
        square.input()


def test_settings_of_a_page_are_checked():
    assert job_settings(*SETTINGS, "ss.when.stride=4").overrides == ("ss.when.stride=4",)
    for more in ("output.dir=/", "input.image_path=x", "pipeline.tag=/", "ss", "+ss=1"):
        with pytest.raises(ConfigError, match="cannot be set here"):
            job_settings(*SETTINGS, more)
    with pytest.raises(ConfigError, match="no file is chosen"):
        job_settings("default", 42, 25, 25, [], 0, 0, "")
    with pytest.raises(ConfigError, match="no seed"):
        job_settings("default", None, 25, 25, ["mesh"], 0, 0, "")


def test_a_turntable_is_a_file_of_an_object_and_a_scene_has_its_own():
    asked = ("default", 42, 25, 25, ["mesh", "turntable"], 0, 0, "")
    assert job_settings(*asked).overrides == ("output.turntable=true",) and job_settings(*asked).formats == ("mesh",)
    assert job_settings(*asked, scene=True).overrides == ()
    with pytest.raises(ConfigError, match="no file is chosen"):
        job_settings("default", 42, 25, 25, ["turntable"], 0, 0, "")


def test_a_wrong_file_is_refused_by_its_own_name(tmp_path):
    (tmp_path / "upload-1234").write_text("no picture")
    with pytest.raises(InputError, match=r"^notes\.txt is not a picture"):
        open_picture(tmp_path / "upload-1234", "notes.txt")


def test_sam2_selects_where_it_is_given(tmp_path: Path):
    class Fake:
        def mask(self, image, marks):
            mask = np.zeros(image.shape[:2], bool)
            mask[5:15, 10:20] = True
            return mask

    Image.new("RGB", (40, 30), "grey").save(tmp_path / "a.png")
    chosen = open_picture(tmp_path / "a.png", "a.png", Fake()).click(12, 8)
    assert chosen.mask is not None and chosen.mask.sum() == 100
