"""Masks selected by --click and --box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.cli.arguments import Parser
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.cli.flags import add_config_flags
from fast_sam3d.config.compose import Config, load
from fast_sam3d.errors import ConfigError, InputError
from fast_sam3d.inputs.load import load_asked


def config_of(*flags: str) -> Config:
    parser = Parser(prog="fast-sam3d infer")
    add_config_flags(parser)
    args = parser.parse(flags, overrides=True)
    assert not isinstance(args, int)
    return config_from(args)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A red disc left and a green one right, on grey, with a mask file that is not what is clicked."""
    y, x = np.indices((90, 160))
    image = np.full((90, 160, 3), 130, np.uint8)
    image[(x - 45) ** 2 + (y - 45) ** 2 < 900] = (200, 30, 30)
    image[(x - 115) ** 2 + (y - 45) ** 2 < 900] = (30, 160, 40)
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(np.eye(90, 160, dtype=bool)).save(tmp_path / "0.png")
    return tmp_path


def test_a_click_selects_the_object_instead_of_a_numbered_mask(picture: Path):
    given = load_asked(config_of("--image_path", str(picture), "--click", "115,45").input)
    assert given.mask[45, 115] and not given.mask[45, 45]
    assert 0.95 < given.mask.sum() / (np.pi * 900) < 1.05
    assert given.name == f"{picture.name}_click_115_45"


def test_repeated_clicks_all_count(picture: Path):
    asked = config_of("--image_path", str(picture), "--click", "115,45", "--click=45,45", "--background", "2,3").input
    assert asked.clicks == ((115, 45), (45, 45)) and asked.background == ((2, 3),)
    mask = load_asked(asked).mask
    assert mask[45, 115] and mask[45, 45] and not mask[3, 2]


def test_a_box_selects_what_is_inside(picture: Path):
    given = load_asked(config_of("--image_path", str(picture), "--box", "12,12,78,78").input)
    assert 0.95 < given.mask.sum() / (np.pi * 900) < 1.05 and given.mask[45, 45]
    assert given.name.endswith("_box_12_12_78_78")


def test_a_click_is_in_the_picture_as_it_is_displayed(picture: Path):
    stored = Image.open(picture / "image.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed turned by 90 degrees clockwise
    stored.save(picture / "turned.png", exif=exif)
    given = load_asked(load([], {"input.image_path": str(picture / "turned.png"), "input.click": "115,45"}).input)
    assert given.image.shape == (90, 160, 3) and tuple(given.image[45, 115]) == (30, 160, 40)
    assert given.mask[45, 115] and not given.mask[45, 45]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--click", "5"], "2 numbers"),
        (["--click", "a,b"], "2 numbers"),
        (["--click", "1,nan"], "2 numbers"),
        (["--box", "1,2,3"], "4 numbers"),
        (["--box", "1,2,3,4 5,6,7,8"], "2 boxes"),
        (["--click", "5,5", "--mask_index", "0"], "names a mask"),
        (["--box", "1,2,30,40", "--mask_path", "0.png"], "names a mask"),
    ],
)
def test_malformed_marks_are_refused(flags: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        config_of("--image_path", "x", *flags)


@pytest.mark.parametrize(
    "flags", [["--click", "500,5"], ["--click", "-3,5"], ["--background", "5,5"], ["--box", "0,0,160,90"]]
)
def test_marks_that_select_nothing_are_refused(picture: Path, flags: list[str]):
    with pytest.raises(InputError):
        load_asked(config_of("--image_path", str(picture), *flags).input)
