"""What a job is given: checked, saved without a loss, read back by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.config.settings import InputConfig
from fast_sam3d.demo.inputs import JobInput, examples, read_upload
from fast_sam3d.demo.settings import SAVED_AXES
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import load_object
from fast_sam3d.scene.inputs import load_scene


def picture(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def mask(height=20, width=30, start=5):
    covered = np.zeros((height, width), bool)
    covered[start : start + 4, 8:20] = True
    return covered


def test_saved_input_is_read_back_without_a_loss(tmp_path):
    points = np.random.default_rng(1).random((20, 30, 3), np.float32) + 1
    JobInput(picture(), (mask(), mask(start=10)), "two", points).save(tmp_path / "two")
    given = load_object(tmp_path / "two", 1, pointmap_axes=SAVED_AXES)
    assert np.array_equal(given.image, picture()) and np.array_equal(given.mask, mask(start=10))
    assert np.array_equal(given.pointmap, points)
    assert sorted(load_scene(tmp_path / "two", InputConfig(pointmap_axes=SAVED_AXES)).masks) == [0, 1]


@pytest.mark.parametrize(
    ("image", "masks", "said"),
    [
        (picture().astype(float), (mask(),), "the picture is float64"),
        (picture()[..., 0], (mask(),), "give \\[height, width, 3\\]"),
        (picture()[:0], (mask(),), "the picture is uint8 \\[0, 30, 3\\]"),
        (picture(), (), "no object is selected"),
        (picture(), (mask(10, 30),), "the mask is \\[10, 30\\]"),
        (picture(), (np.zeros((20, 30), bool),), "the mask is empty"),
        (picture(), (mask(), np.ones((20, 30), np.uint8)), "mask 1 covers the whole picture"),
    ],
)
def test_unusable_input_is_refused(image, masks, said):
    with pytest.raises(InputError, match=said):
        JobInput(image, masks)


@pytest.mark.parametrize("name", ["ein Bild.jpg", "猫", "../../etc", "a" * 400, "", "con/..\\x", "-rf"])
def test_any_name_becomes_one_folder_inside_the_jobs_folder(tmp_path, name):
    given = JobInput(picture(), (mask(),), name)
    given.save(tmp_path / "input" / given.folder_name)
    assert [path.parent.parent for path in tmp_path.rglob("image.png")] == [tmp_path / "input"]
    assert not given.folder_name.startswith("-")


def test_examples_are_there_with_their_masks():
    found = {example.name: example for example in examples()}
    assert found["teapot"].path == Path("examples/teapot") and list(found["teapot"].masks) == [0]
    given = found["teapot"].input()
    assert given.source == Path("examples/teapot") and given.name == "teapot" and given.pointmap is not None


def test_a_scene_of_the_examples_has_every_mask():
    example = next(each for each in examples() if len(each.masks) > 1)
    assert len(example.scene().masks) == len(example.masks)


def test_a_wrong_file_is_an_input_error(tmp_path):
    wrong = tmp_path / "notes.png"
    wrong.write_text("no picture")
    with pytest.raises(InputError):
        read_upload(wrong)
