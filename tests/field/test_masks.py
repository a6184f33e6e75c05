"""Masks as tools save them: each is read right, read with a notice that says how, or refused with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import load_object
from tests.field.made import (
    CORNERS,
    HEIGHT,
    LABELS,
    MASK,
    OTHER,
    PICTURE,
    WHITE,
    WIDTH,
    coco,
    coloured,
    labelme,
    palette,
    pasted,
    runs,
    save,
    shape,
    soft,
    text_of,
)  # fmt: skip

BLACK_WHITE = (0, 0, 0), (255, 255, 255)
RED = (200, 0, 0)
NOISE = np.random.default_rng(0).integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
SPECKLES = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
RAMP = np.tile(np.arange(WIDTH, dtype=np.uint8) * 3, (HEIGHT, 1)) + 18
LIMITED = (16 + WHITE.astype(float) * 219 / 255).astype(np.uint8)


def picture(name: str, pixels: Callable[[], Any], **options: Any) -> Callable[[Path], dict[str, Any]]:
    """A case whose mask is a file beside the picture, numbered or named by --mask_path."""

    def build(folder: Path) -> dict[str, Any]:
        path = save(pixels(), folder / name, **options)
        return {} if path.stem.isdigit() else {"mask_path": path}

    return build


def array(values: Any, label: str | None = None, name: str = "mask.npy", **more: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> dict[str, Any]:
        path = folder / name
        np.savez(path, masks=values) if name.endswith("npz") else np.save(path, values)
        return {"mask_path": path, "mask_label": label, **more}

    return build


def text(content: str, label: str | None = None, name: str = "masks.json") -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / name).write_text(content, encoding="utf-8")
        return {"mask_path": folder / name, "mask_label": label}

    return build


def also(build: Callable[[Path], dict[str, Any]], **more: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: build(folder) | more


def stack() -> np.ndarray:
    return np.stack([OTHER, MASK])


CUT_OUT = np.dstack([PICTURE, WHITE])
POLYGON = [value for corner in CORNERS for value in corner]
RLE = {"size": [HEIGHT, WIDTH], "counts": text_of(runs(MASK))}
PLAIN_RLE = {"size": [HEIGHT, WIDTH], "counts": runs(MASK)}

RIGHT: dict[str, Callable[[Path], dict[str, Any]]] = {
    "palette, white first": picture("0.png", lambda: palette(~MASK, *reversed(BLACK_WHITE))),
    "palette, black first": picture("0.png", lambda: palette(MASK, *BLACK_WHITE)),
    "palette, red first, black second": picture("0.png", lambda: palette(~MASK, RED, (0, 0, 0))),
    "palette, white second of three": picture("0.png", lambda: palette(MASK * 2, (0, 0, 0), (9, 9, 9), (255,) * 3)),
    "palette of greys": picture("0.png", lambda: palette(MASK * 7, *((i, i, i) for i in range(256)))),
    "palette quantised by Pillow": picture("0.png", lambda: Image.fromarray(WHITE).convert("RGB").quantize(2)),
    "palette, transparent background": picture("0.png", lambda: palette(MASK, RED, RED), transparency=0),
    "palette of a gif": picture("0.gif", lambda: palette(~MASK, *reversed(BLACK_WHITE))),
    "1-bit": picture("0.png", lambda: Image.fromarray(WHITE).convert("1")),
    "0 and 1": picture("0.png", lambda: MASK.astype(np.uint8)),
    "16-bit": picture("0.png", lambda: WHITE.astype(np.uint16) * 257),
    "bmp": picture("0.bmp", lambda: WHITE),
    "tiff": picture("0.tif", lambda: WHITE),
    "pgm": picture("0.pgm", lambda: WHITE),
    "webp": picture("0.webp", lambda: WHITE, lossless=True),
    "jpeg": picture("0.jpg", lambda: WHITE, quality=60),
    "jpeg, coarse": picture("0.JPEG", lambda: WHITE, quality=20),
    "jpeg in red": picture("0.jpg", lambda: coloured(MASK, (255, 0, 0)), quality=80),
    "jpeg, CMYK": picture("0.jpg", lambda: Image.fromarray(WHITE).convert("RGB").convert("CMYK"), quality=90),
    "red on black": picture("0.png", lambda: coloured(MASK, RED)),
    "yellow, soft edges": picture("0.png", lambda: (soft(MASK)[..., None] / 255 * (255, 250, 0)).astype(np.uint8)),
    "soft edges": picture("0.png", lambda: soft(MASK).round().astype(np.uint8)),
    "noise below white": picture("0.png", lambda: np.where(MASK, 255, NOISE).astype(np.uint8)),
    "alpha": picture("0.png", lambda: np.dstack([PICTURE, WHITE])),
    "alpha, few faint pixels": picture(
        "0.png", lambda: np.dstack([PICTURE, np.where(MASK, 255 - NOISE, 0)]).astype("u1")
    ),
    "opaque alpha": picture("0.png", lambda: np.dstack([WHITE] * 3 + [np.full_like(WHITE, 255)])),
    "alpha with noise, threshold": also(
        picture("0.png", lambda: np.dstack([PICTURE, np.where(MASK, 255, NOISE)]).astype("u1")), mask_threshold=0.5
    ),
    "dim mask, threshold": also(picture("0.png", lambda: (soft(MASK) / 3).astype("u1")), mask_threshold=1 / 6),
    "array of bool": array(MASK),
    "array of 255": array(WHITE),
    "array of int64": array(MASK.astype(np.int64)),
    "array of shares": array(soft(MASK) / 255),
    "array with a leading axis": array(MASK[None]),
    "array with a last axis": array(MASK[..., None]),
    "array in npz": array(MASK, name="mask.npz"),
    "numbered array": lambda folder: np.save(folder / "0.npy", MASK) or {},
    "stack of masks": array(stack(), "1"),
    "stack of numbers": array(stack().astype(np.float32), "1"),
    "label map": also(picture("labels.png", lambda: LABELS), mask_label="2"),
    "label map in a palette": also(picture("labels.png", lambda: palette(LABELS, *BLACK_WHITE, RED)), mask_label="2"),
    "label map, 16-bit": also(picture("labels.png", lambda: LABELS.astype("u2") * 13001), mask_label="26002"),
    "label map, panoptic": also(picture("labels.png", lambda: coloured(LABELS, (1, 1, 2))), mask_label="262658"),
    "label map as array": array(LABELS.astype(np.int32) - 1, "1"),
    "label map of floats": array(LABELS.astype(np.float64), "2"),
    "compressed run lengths": text(json.dumps(RLE)),
    "run lengths": text(json.dumps(PLAIN_RLE)),
    "list of run lengths": text(json.dumps([RLE | {"label": "cup"}, PLAIN_RLE]), "cup"),
    "automatic masks": text(json.dumps([{"segmentation": RLE, "area": 9}, {"segmentation": PLAIN_RLE}]), "0"),
    "SA-1B": text(
        json.dumps({"image": {"height": HEIGHT, "width": WIDTH}, "annotations": [{"id": 3, "segmentation": RLE}]})
    ),
    "COCO, polygon": text(coco([POLYGON]), "cup"),
    "COCO, two parts": text(coco([[8, 12, 50, 12, 50, 24, 8, 24], [8, 24, 24, 24, 24, 40, 8, 40]]), "cup"),
    "COCO, run lengths by id": text(coco(RLE), "41"),
    "COCO, another ending": text(coco(RLE, file_name="val/image.jpg"), "Cup"),
    "labelme": text(labelme(shape("cup", CORNERS), shape("tray", [(60, 50), (75, 50), (75, 60)])), "cup"),
    "labelme, one shape": text(labelme(shape("cup", CORNERS)), None, "image.json"),
    "labelme, a mask": text(labelme(pasted())),
    "labelme, a group": text(labelme(
        shape("cup", [(8, 12), (50, 24)], "rectangle", group_id=1),
        shape("cup", [(24, 40), (8, 24)], "rectangle", group_id=1),
        shape("cup", [(60, 50), (75, 60)], "rectangle"),
    ), "0"),
    "labelme with a byte-order mark": text("\ufeff" + labelme(shape("Täßchen", CORNERS)), "täßchen"),
}  # fmt: skip

NOTICED: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "alpha with noise": (
        "faint",
        picture("0.png", lambda: np.dstack([PICTURE, np.where(MASK, 255, NOISE)]).astype("u1")),
    ),
    "inverted": ("inverted", picture("0.png", lambda: 255 - WHITE)),
    "inverted, in a palette": ("inverted", picture("0.png", lambda: palette(~MASK, *BLACK_WHITE))),
    "limited range": ("limited range", picture("0.png", lambda: LIMITED)),
    "limited range, soft": ("limited range", picture("0.png", lambda: (16 + soft(MASK) * 219 / 255).astype("u1"))),
    "limited range, jpeg": ("limited range", picture("0.jpg", lambda: LIMITED, quality=95)),
    "no black": ("read as black and white", picture("0.png", lambda: np.where(MASK, 250, 3).astype("u1"))),
    "two colours, none black": ("two colours", picture("0.png", lambda: palette(MASK, (90, 0, 90), RED))),
    "unknown band of a trimap": (
        "three values",
        picture("0.png", lambda: np.where(MASK, 255, OTHER * 128).astype("u1")),
    ),
    "much grey": ("neither black nor white", picture("0.png", lambda: RAMP)),
    "shapes without area": ("no areas", text(labelme(shape("cup", CORNERS), shape("tip", [(3, 4)], "point")), "cup")),
}  # fmt: skip

REFUSED: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "label map": ("--mask_label", picture("0.png", lambda: LABELS)),
    "label map with void": ("--mask_label", picture("0.png", lambda: np.where(OTHER, 255, MASK * 3).astype("u1"))),
    "label map in colours": (
        "several colours",
        picture("0.png", lambda: coloured(MASK, RED) + coloured(OTHER, (0, 90, 0))),
    ),
    "label map with white": (
        "several colours",
        picture("0.png", lambda: coloured(MASK, RED) + coloured(OTHER, (255,) * 3)),
    ),
    "photograph as png": ("several colours", picture("0.png", lambda: SPECKLES)),
    "photograph as jpeg": ("several colours", picture("0.jpg", lambda: PICTURE, quality=95)),
    "dark": ("--mask_threshold", picture("0.jpg", lambda: (WHITE // 4), quality=95)),
    "no background": ("whole image", picture("0.png", lambda: 1 + MASK.astype("u1"))),
    "above every value": (
        "empty at --mask_threshold 1",
        also(picture("0.png", lambda: (soft(MASK) * 0.9).astype("u1")), mask_threshold=1.0),
    ),
    "turned by a quarter": ("80 pixels and", picture("0.png", lambda: WHITE.T)),
    "another size": ("at the size", picture("0.png", lambda: WHITE[::2, ::2])),
    "logits": ("values from", array(np.where(MASK, 7.5, -9.0))),
    "not a number": ("not finite", array(np.where(MASK, 1.0, np.nan))),
    "stack of masks": ("--mask_label", array(stack())),
    "stack, no such mask": ("there are 0, 1", array(stack(), "2")),
    "picture as array": ("like a picture", array(PICTURE, "1")),
    "objects in an array": ("cannot be read|dtype", array(np.array([{}], dtype=object))),
    "no such label": ("there are 2, 5", also(picture("labels.png", lambda: LABELS), mask_label="3")),
    "cut-out as a label map": ("alpha channel", also(picture("labels.png", lambda: CUT_OUT), mask_label="nosuch")),
    "lossy label map": ("save them as PNG", also(picture("labels.jpg", lambda: LABELS), mask_label="2")),
    "label without a file": ("--mask_path", lambda folder: {"mask_label": "2"}),
    "empty label map": ("no object", also(picture("labels.png", lambda: LABELS * 0), mask_label="2")),
    "too many labels": (
        "not a label map",
        also(picture("labels.png", lambda: np.arange(5120, dtype="u2").reshape(64, 80)), mask_label="2"),
    ),
    "label map without a name": ("name it with --mask_path", lambda folder: save(LABELS, folder / "labels.png") and {}),
    "run lengths of another size": ("not those of 80x64", text(json.dumps(RLE | {"counts": [5, 6, 7]}))),
    "run lengths cut off": ("cut off", text(json.dumps(RLE | {"counts": "o"}))),
    "run lengths damaged": ("damaged", text(json.dumps(RLE | {"counts": "4 ü"}))),
    "huge size": ("megapixels", text(json.dumps(RLE | {"size": [10**9, 10**9]}))),
    "another picture": ("none is named image.png", text(coco(RLE, file_name="cat.jpg"))),
    "several objects": ("41 (cup), 42 (tray)", text(coco(RLE))),
    "several of a name": (
        "by its number",
        text(labelme(shape("cup", CORNERS), shape("cup", [(0, 0), (9, 0), (9, 9)])), "cup"),
    ),
    "no such name": ("0 (cup)", text(labelme(shape("cup", CORNERS)), "mug")),
    "no area": ("no object", text(labelme(shape("tip", [(3, 4)], "point")))),
    "outside of the picture": ("empty", text(labelme(shape("cup", [(900, 900), (950, 900), (950, 950)])))),
    "points that are no numbers": ("unknown form|not \\(x, y\\)", text(labelme(shape("cup", [("a", "b")] * 3)))),
    "a mask shape without a mask": ("unknown form", text(labelme(shape("cup", [(3, 4)], "mask")))),
    "not JSON": ("is not JSON", text("{")),
    "nested JSON": ("deep", text("[" * 100_000)),
    "other JSON": ("unknown form", text('{"a": 1}')),
    "masks of several pictures": ("2 pictures", text(json.dumps([RLE | {"image_id": 1}, RLE | {"image_id": 2}]))),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cup").mkdir()
    save(PICTURE, tmp_path / "cup" / "image.png")
    return tmp_path / "cup"


@pytest.mark.parametrize("name", RIGHT)
def test_a_mask_is_read_right(folder, name):
    given = load_object(folder, **RIGHT[name](folder))
    overlap = (given.mask & MASK).sum() / (given.mask | MASK).sum()
    assert overlap == 1.0 or ("jpeg" in name and overlap > 0.97)
    assert not given.notices


@pytest.mark.parametrize("name", NOTICED)
def test_what_may_mean_something_else_has_a_notice(folder, name, caplog):
    words, build = NOTICED[name]
    given = load_object(folder, **build(folder))
    assert any(words in notice for notice in given.notices), given.notices
    assert words in caplog.text


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_meaning_is_refused(folder, name):
    words, build = REFUSED[name]
    pattern = words if "|" in words else words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=pattern) as caught:
        load_object(folder, **build(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["avif", "heic"])
def test_pictures_and_masks_of_phones(tmp_path, kind):
    if kind == "heic":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed").register_heif_opener()
    elif "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    save(PICTURE, tmp_path / f"image.{kind}", quality=90)
    save(WHITE, tmp_path / f"0.{kind}", quality=90)
    given = load_object(tmp_path)
    assert np.abs(given.image.astype(float) - PICTURE).mean() < 6
    assert (given.mask == MASK).mean() > 0.99


@pytest.mark.parametrize(("brand", "kind"), [(b"heic", "HEIC"), (b"avif", "AVIF")])
def test_a_missing_package_is_named(folder, monkeypatch, brand, kind):
    monkeypatch.setattr("fast_sam3d.inputs.pictures._formats", lambda: ["PNG", "JPEG"])
    path = folder / f"photo.{kind.lower()}"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0" * 40)
    with pytest.raises(InputError, match=rf'{kind}.*pip install "fast-sam3d\[heif\]"'):
        load_object(path, mask_path=save(WHITE, folder / "0.png"))


def test_results_are_named_after_the_object(folder):
    save(LABELS, folder / "labels.png")
    assert load_object(folder, mask_path=folder / "labels.png", mask_label="2").name == "cup_labels_2"
    (folder / "image.json").write_text(labelme(shape("tea cup", CORNERS)))
    assert load_object(folder, mask_path=folder / "image.json").name == "cup_tea_cup_0"
