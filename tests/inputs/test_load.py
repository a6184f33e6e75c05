"""Reading of images and masks: accepted and refused files."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import list_masks, load_object
from fast_sam3d.inputs.masks import read_mask
from fast_sam3d.inputs.pictures import read_picture


def save(array: np.ndarray, path: Path, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------------------ the folder


def test_a_folder_gives_its_image_and_lowest_mask(object_folder, picture, disc):
    given = load_object(object_folder)
    np.testing.assert_array_equal(given.image, picture)
    np.testing.assert_array_equal(given.mask, disc)
    assert given.image.dtype == np.uint8
    assert given.mask.dtype == bool
    assert (given.name, given.mask_path.name, given.pointmap) == ("cup_0", "0.png", None)


def test_an_image_file_equals_its_folder(object_folder, disc):
    given = load_object(object_folder / "image.png", mask_index=2)
    np.testing.assert_array_equal(given.mask, ~disc)
    assert given.name == "cup_2"


def test_mask_path_replaces_the_number(object_folder, tmp_path, disc):
    path = save(disc.astype(np.uint8) * 255, tmp_path / "my mask.png")
    given = load_object(object_folder, mask_path=path)
    np.testing.assert_array_equal(given.mask, disc)
    assert given.name == "cup_my_mask"


def test_masks_are_sorted_by_number_with_gaps(object_folder):
    assert list(list_masks(object_folder)) == [0, 2, 11]


def test_padded_numbers_are_accepted_and_the_plain_name_takes_precedence(tmp_path, disc):
    for name in ("010.png", "5.png", "05.png", "0003.png", "7.PNG"):
        save(disc, tmp_path / name)
    masks = list_masks(tmp_path)
    assert list(masks) == [3, 5, 7, 10]
    assert masks[5].name == "5.png"


def test_other_images_are_not_masks(object_folder, picture):
    save(picture, object_folder / "10a.png")
    save(picture, object_folder / "preview.png")
    assert list(list_masks(object_folder)) == [0, 2, 11]


def test_the_relative_current_folder_has_a_name(object_folder, monkeypatch):
    monkeypatch.chdir(object_folder)
    assert load_object(".").name == "cup_0"


def test_the_alpha_channel_is_the_mask_without_mask_files(tmp_path, picture, disc):
    path = save(np.dstack([picture, disc * np.uint8(255)]), tmp_path / "cut.png")
    given = load_object(path)
    np.testing.assert_array_equal(given.mask, disc)
    np.testing.assert_array_equal(given.image, picture)
    assert given.name == "cut_alpha"


# --------------------------------------------------------------------------------------------- kinds of mask files


def masks_of_every_kind(folder: Path, disc: np.ndarray, picture: np.ndarray) -> dict[str, Path]:
    grey = disc.astype(np.uint8) * 255
    indexed = Image.fromarray(disc.astype(np.uint8))
    indexed.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    indexed.save(folder / "palette.png")
    white_first = Image.fromarray((~disc).astype(np.uint8))
    white_first.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    white_first.save(folder / "palette_white_first.png")
    Image.fromarray(disc).save(folder / "one_bit.png")
    Image.fromarray(grey).save(folder / "noisy.jpg", quality=60)
    return {
        "grey 255": save(grey, folder / "grey.png"),
        "grey 0 and 1": save(disc.astype(np.uint8), folder / "ones.png"),
        "16-bit": save(grey.astype(np.uint16) * 257, folder / "wide.png"),
        "rgb": save(np.repeat(grey[..., None], 3, -1), folder / "rgb.png"),
        "rgba, object in alpha": save(np.dstack([picture, grey]), folder / "rgba.png"),
        "rgba, opaque": save(np.dstack([grey, grey, grey, np.full_like(grey, 255)]), folder / "opaque.png"),
        "grey and alpha": save(np.dstack([np.full_like(grey, 9), grey]), folder / "la.png"),
        "palette": folder / "palette.png",
        "palette, white first": folder / "palette_white_first.png",
        "1-bit": folder / "one_bit.png",
        "jpeg": folder / "noisy.jpg",
    }


def test_every_encoding_of_one_mask_reads_the_same(tmp_path, disc, picture):
    for kind, path in masks_of_every_kind(tmp_path, disc, picture).items():
        np.testing.assert_array_equal(read_mask(path), disc, err_msg=kind)


@pytest.mark.parametrize("value", [1, 255, 256, 65535])
def test_sixteen_bit_masks_of_two_values(tmp_path, disc, value):
    for name in ("wide.png", "wide.tif"):
        path = save(disc.astype(np.uint16) * np.uint16(value), tmp_path / name)
        np.testing.assert_array_equal(read_mask(path), disc)


def test_sixteen_bit_masks_with_soft_edges(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint16), (16, 1))
    for factor, half in ((1, 128), (257, 32768)):
        path = save(ramp * np.uint16(factor), tmp_path / "ramp.png")
        np.testing.assert_array_equal(read_mask(path), ramp * factor >= half)


def test_low_alpha_belongs_to_the_object(tmp_path, picture, disc):
    path = save(np.dstack([picture, disc * np.uint8(3)]), tmp_path / "0.png")
    np.testing.assert_array_equal(read_mask(path), disc)


def test_soft_grey_is_thresholded_at_half(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    np.testing.assert_array_equal(read_mask(save(ramp, tmp_path / "ramp.png")), ramp >= 128)


# ------------------------------------------------------------------------------------------------ kinds of picture


def test_convertible_images_become_rgb_with_a_log_message(tmp_path, picture, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    grey = picture[..., 0]
    cases = {
        "grey": (save(grey, tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1)),
        "RGBA": (save(np.dstack([picture, grey]), tmp_path / "rgba.png"), picture),
        "16-bit": (save(grey.astype(np.uint16) * 257, tmp_path / "wide.png"), np.repeat(grey[..., None], 3, -1)),
    }
    for kind, (path, expected) in cases.items():
        caplog.clear()
        np.testing.assert_array_equal(read_picture(path)[0], expected, err_msg=kind)
        assert kind in caplog.text


def test_palette_and_cmyk_pictures_keep_their_colours(tmp_path, picture, disc, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    Image.fromarray(picture).quantize(64).save(tmp_path / "p.png")
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    for name in ("p.png", "c.jpg"):
        rgb = read_picture(tmp_path / name)[0]
        assert rgb.shape == picture.shape
        assert abs(rgb[disc].astype(int).mean(0) - [200, 30, 20]).max() < 12, name
    assert "palette" in caplog.text
    assert "CMYK" in caplog.text


def test_rgb_logs_nothing(object_folder, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    read_picture(object_folder / "image.png")[0]
    assert caplog.text == ""


def test_colours_under_full_transparency_are_kept(tmp_path, picture):
    path = save(np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)]), tmp_path / "clear.png")
    np.testing.assert_array_equal(read_picture(path)[0], picture)


def test_exif_orientation_is_applied_to_match_the_mask(tmp_path, picture, disc, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown turned clockwise
    Image.fromarray(np.rot90(picture)).save(tmp_path / "image.png", exif=exif)
    save(disc.astype(np.uint8) * 255, tmp_path / "0.png")
    np.testing.assert_array_equal(load_object(tmp_path).image, picture)
    assert "EXIF" in caplog.text
    save(np.rot90(disc).astype(np.uint8) * 255, tmp_path / "1.png")
    np.testing.assert_array_equal(load_object(tmp_path, 1).image, np.rot90(picture))


# ------------------------------------------------------------------------------------------------------- bad input


def big_png(path: Path, width: int, height: int) -> Path:
    """A PNG with a large size in its header and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


def refused(*words: str, **arguments: object) -> None:
    with pytest.raises(InputError) as caught:
        load_object(**arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_missing_picture(tmp_path, object_folder):
    refused("no image at", "--image_path", image_path=tmp_path / "nowhere.png")
    refused("image.png", image_path=object_folder / "imag.png")
    (tmp_path / "empty").mkdir()
    refused("holds no image.png", image_path=tmp_path / "empty")


def test_a_folder_of_scenes_is_for_the_scene_command(tmp_path, object_folder):
    refused(f"fast-sam3d scene --image_path {tmp_path}", f"such as {object_folder.name}", image_path=tmp_path)


def test_a_missing_mask_lists_the_existing_ones(object_folder, tmp_path):
    refused("no mask 1.png", "0, 2, 11", image_path=object_folder, mask_index=1)
    refused("no file at", image_path=object_folder, mask_path=tmp_path / "m.png")


def test_upper_case_file_names_are_found(object_folder, picture):
    (object_folder / "image.png").rename(object_folder / "IMAGE.PNG")
    given = load_object(object_folder)
    assert (given.image_path.name, given.name) == ("IMAGE.PNG", "cup_0")
    save(255 - picture, object_folder / "image.png")
    np.testing.assert_array_equal(load_object(object_folder).image, 255 - picture)


def test_numbered_masks_of_other_formats_count(tmp_path, picture, disc):
    save(picture, tmp_path / "image.png")
    save(disc.astype(np.uint8) * 255, tmp_path / "0.jpg")
    for index in (None, 0):
        np.testing.assert_array_equal(load_object(tmp_path, index).mask, disc)
    refused("there are 0", image_path=tmp_path, mask_index=1)
    save((~disc).astype(np.uint8) * 255, tmp_path / "1.png")
    assert load_object(tmp_path).mask_path.name == "0.jpg"
    assert load_object(tmp_path, 1).mask_path.name == "1.png"
    save((~disc).astype(np.uint8) * 255, tmp_path / "000.png")
    assert load_object(tmp_path).mask_path.name == "000.png"  # without loss before others
    refused("there are 0, 1", image_path=tmp_path, mask_index=2)


def test_long_names_are_shortened_and_stay_unique(object_folder):
    names = set()
    for last in "ab":
        path = (object_folder / "image.png").rename(object_folder / ("ü" * 120 + last + ".png"))
        names.add(load_object(path, 2).name)
        path.rename(object_folder / "image.png")
    assert len(names) == 2
    assert all(len(name.encode()) <= 200 and name.endswith("_2") for name in names)


def test_large_pictures_are_converted_by_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("fast_sam3d.inputs.pictures._STRIP", 7)
    rgba = np.random.default_rng(0).integers(0, 256, (40, 48, 4)).astype(np.uint8)
    np.testing.assert_array_equal(read_picture(save(rgba, tmp_path / "a.png"))[0], rgba[..., :3])
    grey = rgba[..., 0]
    np.testing.assert_array_equal(read_mask(save(grey, tmp_path / "b.png")), grey >= 128)


def test_folder_without_masks(tmp_path, picture):
    save(picture, tmp_path / "image.png")
    refused("holds no mask", "--mask_path", image_path=tmp_path)
    refused("holds no mask", image_path=tmp_path, mask_index=0)


def test_mask_of_another_size_is_refused(object_folder):
    save(np.eye(20, dtype=np.uint8) * 255, object_folder / "3.png")
    refused("20x20", "48x40", "at the size of the image", image_path=object_folder, mask_index=3)


@pytest.mark.parametrize(("value", "word"), [(0, "empty"), (255, "whole image")])
@pytest.mark.parametrize("channels", [1, 4])
def test_empty_and_full_masks_are_refused(object_folder, value, word, channels):
    flat = np.full((40, 48), value, np.uint8)
    save(flat if channels == 1 else np.dstack([flat] * 4), object_folder / "3.png")
    refused(word, image_path=object_folder, mask_index=3)


def test_dark_label_maps_are_rejected(object_folder):
    labels = np.zeros((40, 48), np.uint8)
    labels[5:9], labels[20:30] = 1, 2
    save(labels, object_folder / "3.png")
    refused("grey values 0, 1, 2,", "map of several objects", image_path=object_folder, mask_index=3)
    save(labels * 100, object_folder / "3.png")
    refused("grey values 0, 100, 200,", image_path=object_folder, mask_index=3)
    save(labels.astype(np.uint16) * 1000, object_folder / "3.png")
    refused("grey values 0, 1000, 2000,", image_path=object_folder, mask_index=3)


def test_labels_in_a_palette(object_folder):
    labels = np.zeros((40, 48), np.uint8)
    labels[5:9], labels[20:30] = 1, 2
    indexed = Image.fromarray(labels)
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    indexed.save(object_folder / "3.png")
    refused("3 colours of a palette", "white on black", image_path=object_folder, mask_index=3)
    indexed.putpalette([0, 0, 0, 90, 90, 90, 255, 255, 255] + [0] * 759)
    indexed.save(object_folder / "3.png")
    np.testing.assert_array_equal(read_mask(object_folder / "3.png"), labels == 2)


def test_the_error_of_a_dark_mask_states_its_brightness(tmp_path):
    dark = np.tile(np.arange(100, dtype=np.uint8), (16, 1))
    with pytest.raises(InputError, match=r"brightest pixel is 99 of 255.*at least 128"):
        read_mask(save(dark, tmp_path / "dark.png"))


@pytest.mark.parametrize(("name", "keep"), [("image.png", 10), ("image.png", 0.5), ("image.png", 0.9), ("0.png", 0.5)])
def test_truncated_files(object_folder, name, keep):
    path = object_folder / name
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep > 1 else int(len(content) * keep)])
    refused(str(path), image_path=object_folder)


def test_incomplete_jpeg(tmp_path, object_folder, picture):
    Image.fromarray(picture).save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(content[: len(content) // 2])
    refused("damaged or incomplete", image_path=tmp_path / "photo.jpg", mask_path=object_folder / "0.png")


def test_a_png_whose_pixels_do_not_fit_their_checksum_is_refused(object_folder: Path) -> None:
    content = bytearray((object_folder / "0.png").read_bytes())
    middle = len(content) // 2
    content[middle:middle] = content[middle : middle + 13] * 100  # fills all rows before the decoder is at the end
    (object_folder / "0.png").write_bytes(content)
    refused("damaged or incomplete", image_path=object_folder)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_files_that_are_not_images(object_folder, content):
    (object_folder / "image.png").write_bytes(content)
    refused("is not a picture", image_path=object_folder)


@pytest.mark.parametrize("size", [(9000, 9000), (20000, 20000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("name", ["image.png", "0.png"])
def test_huge_images_are_rejected_by_their_header(object_folder, size, name):
    big_png(object_folder / name, *size)
    refused("64 megapixels", "scale it", image_path=object_folder)


def test_an_image_at_the_limit_is_accepted(object_folder):
    big_png(object_folder / "image.png", 8000, 8000)
    refused("damaged", image_path=object_folder)  # passes the size check; its pixels are not there


def test_tiny_picture_is_refused(tmp_path):
    save(np.zeros((4, 4, 3), np.uint8), tmp_path / "image.png")
    refused("at least 8", image_path=tmp_path)


def test_float_images_have_an_unknown_range(tmp_path, object_folder):
    Image.fromarray(np.ones((40, 48), np.float32)).save(tmp_path / "float.tif")
    refused("8-bit", image_path=tmp_path / "float.tif", mask_path=object_folder / "0.png")


def test_invalid_file_names():
    refused("cannot be read", image_path="x" * 5000)


def test_a_folder_instead_of_a_mask_file(object_folder, tmp_path):
    refused("is not a file", image_path=object_folder, mask_path=tmp_path)


# ------------------------------------------------------------------------------------------- thin masks, long pictures


@pytest.mark.parametrize(("width", "named"), [(1, True), (3, True), (4, False)])
def test_a_mask_that_is_thin_everywhere_is_named(object_folder, disc, width, named):
    inner = disc.copy()
    for _ in range(width):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    assert inner.any()
    save((disc & ~inner).astype(np.uint8) * 255, object_folder / "0.png")
    found = [notice for notice in load_object(object_folder).notices if "at most 3 pixels wide" in notice]
    assert bool(found) == named


def test_sides_of_pictures_are_limited(tmp_path):
    read_picture(save(np.zeros((8, 65_535), np.uint8), tmp_path / "long.png"))
    with pytest.raises(InputError, match=r"65536x8 pixels: crop it and its masks to at most 65,535 a side"):
        read_picture(save(np.zeros((8, 65_536), np.uint8), tmp_path / "longer.png"))


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_a_picture_that_does_not_fit_is_not_called_damaged(tmp_path, monkeypatch, error):
    path = save(np.zeros((8, 8), np.uint8), tmp_path / "picture.png")

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        read_picture(path)
