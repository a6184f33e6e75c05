"""Damaged pictures, masks and pointmaps, read as one object."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fast_sam3d.inputs.load import ObjectInput, load_object
from tests.field.made import HEIGHT, LABELS, MASK, PICTURE, WHITE, WIDTH, palette
from tests.fuzz.child import AcceptedDamageError
from tests.fuzz.edits import EDITS, edited

_X, _Y = np.meshgrid(np.linspace(0.5, -0.5, WIDTH), np.linspace(0.4, -0.4, HEIGHT))
_POINTS = np.stack([_X, _Y, np.full((HEIGHT, WIDTH), 2.0)], -1).astype(np.float32)
_INTRINSICS = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])


def _image(pixels: Any, kind: str, **options: Any) -> Callable[[], bytes]:
    def build() -> bytes:
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        return stream.getvalue()

    return build


def _arrays(save: Callable[..., Any], *arrays: Any, **named: Any) -> Callable[[], bytes]:
    def build() -> bytes:
        stream = io.BytesIO()
        save(stream, *arrays, **named)
        return stream.getvalue()

    return build


_RGBA = np.dstack([PICTURE, WHITE])
PICTURES = {
    "image.png": _image(PICTURE, "PNG"),
    "rgba.png": _image(_RGBA, "PNG"),
    "deep.png": _image(PICTURE[..., 0].astype(np.uint16) * 257, "PNG"),
    "image.jpg": _image(PICTURE, "JPEG", quality=90),
    "progressive.jpg": _image(PICTURE, "JPEG", progressive=True),
    "image.webp": _image(PICTURE, "WEBP", lossless=True),
    "image.bmp": _image(PICTURE, "BMP"),
    "image.tif": _image(PICTURE, "TIFF"),
    "packed.tif": _image(PICTURE, "TIFF", compression="tiff_lzw"),
    "image.ppm": _image(PICTURE, "PPM"),
}
MASKS = {
    "0.png": _image(WHITE, "PNG"),
    "bit.png": _image(Image.fromarray(MASK), "PNG"),
    "palette.png": _image(palette(MASK.astype(np.uint8), (0, 0, 0), (255, 255, 255)), "PNG"),
    "cut_out.png": _image(_RGBA, "PNG"),
    "0.jpg": _image(WHITE, "JPEG"),
    "0.gif": _image(WHITE, "GIF"),
    "0.tif": _image(WHITE, "TIFF"),
    "0.bmp": _image(WHITE, "BMP"),
    "0.webp": _image(WHITE, "WEBP", lossless=True),
    "0.npy": _arrays(np.save, MASK),
    "labels.npy": _arrays(np.save, LABELS),
    "masks.npz": _arrays(np.savez_compressed, mask=MASK),
}
POINTMAPS = {
    "pointmap.npy": _arrays(np.save, _POINTS),
    "pointmap.npz": _arrays(np.savez_compressed, pointmap=_POINTS),
    "plain.npz": _arrays(np.savez, points=_POINTS, mask=MASK),
    "depth.npz": _arrays(np.savez, depth=_POINTS[..., 2], intrinsics=_INTRINSICS),
}
_CHECKED = (".png", ".npz")
"""Files with checksums: what is read of a damaged one equals the original."""


@functools.lru_cache(maxsize=64)
def _content(name: str) -> bytes:
    return (PICTURES | MASKS | POINTMAPS)[name]()


def files(names: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Cases (name, edits)."""
    return st.tuples(st.sampled_from(sorted(names)), EDITS)


def _whole(folder: Path) -> None:
    """A valid picture with a mask."""
    (folder / "image.png").write_bytes(_content("image.png"))
    (folder / "0.png").write_bytes(_content("0.png"))


def _placed(case: Any, folder: Path) -> tuple[Path, bytes, bytes]:
    name, edits = case
    content = _content(name)
    damaged = edited(content, edits)
    (folder / name).write_bytes(damaged)
    return folder / name, content, damaged


def _sound(found: ObjectInput) -> None:
    high, wide = found.image.shape[:2]
    assert found.image.shape == (high, wide, 3) and found.image.dtype == np.uint8
    assert found.mask.shape == (high, wide) and found.mask.dtype == bool and found.mask.any()
    if found.pointmap is not None:
        assert found.pointmap.shape == (high, wide, 3) and found.pointmap.dtype == np.float32
        assert not np.isinf(found.pointmap).any()


def _same(case: Any, content: bytes, damaged: bytes, read: Callable[[bytes], Any], found: Any) -> None:
    """A truncated file, or a damaged one with checksums, is read as the whole one or not at all."""
    name, edits = case
    cut = len(edits) == 1 and edits[0][0] == "cut" and len(damaged) < len(content)
    if (
        damaged != content
        and (cut or name.endswith(_CHECKED))
        and not np.array_equal(read(content), found, equal_nan=found.dtype.kind == "f")
    ):
        raise AcceptedDamageError(f"{name} {edits} was read as something else")


def read_damaged_picture(case: Any, folder: Path, base: Path) -> None:
    path, content, damaged = _placed(case, folder)
    mask = folder / "masks" / "0.png"
    mask.parent.mkdir()
    mask.write_bytes(_content("0.png"))
    found = load_object(path, mask_path=mask)
    _sound(found)

    def read(whole: bytes) -> Any:
        path.write_bytes(whole)
        return load_object(path, mask_path=mask).image

    _same(case, content, damaged, read, found.image)


def read_damaged_mask(case: Any, folder: Path, base: Path) -> None:
    (folder / "image.png").write_bytes(_content("image.png"))
    path, content, damaged = _placed(case, folder)
    label = "2" if case[0].startswith("labels") else None
    found = load_object(folder / "image.png", mask_path=path, mask_label=label)
    _sound(found)

    def read(whole: bytes) -> Any:
        path.write_bytes(whole)
        return load_object(folder / "image.png", mask_path=path, mask_label=label).mask

    _same(case, content, damaged, read, found.mask)


def read_damaged_pointmap(case: Any, folder: Path, base: Path) -> None:
    _whole(folder)
    path, content, damaged = _placed(case, folder)
    found = load_object(folder, pointmap=str(path))
    _sound(found)
    assert found.pointmap is not None

    def read(whole: bytes) -> Any:
        path.write_bytes(whole)
        return load_object(folder, pointmap=str(path)).pointmap

    _same(case, content, damaged, read, found.pointmap)


_SIDES = st.sampled_from([0, 1, 2, 3, 4, HEIGHT, WIDTH, HEIGHT // 2, WIDTH // 2, HEIGHT * 2, WIDTH * 2, 100_000])
_FITTING = [
    [HEIGHT, WIDTH],
    [HEIGHT, WIDTH, 1],
    [HEIGHT, WIDTH, 3],
    [1, HEIGHT, WIDTH],
    [1, HEIGHT, WIDTH, 3],
    [WIDTH, HEIGHT, 3],
]
ARRAYS = st.tuples(
    st.sampled_from(["pointmap.npy", "pointmap.npz", "0.npy", "labels.npz"]),
    st.one_of(
        st.lists(_SIDES, max_size=5).filter(lambda shape: np.prod(shape, dtype=float) <= 1e6),
        st.sampled_from(_FITTING),
    ),
    st.sampled_from(
        ["<f8", "<f4", ">f4", "<f2", "<i4", "<u2", "|u1", "|b1", "<c8", "<U3", "|S4", "<M8[s]", "|O", "|V8"]
    ),
    st.sampled_from(["zeros", "ones", "nan", "inf", "huge", "negative", "random", "fortran"]),
)


def read_odd_array(case: Any, folder: Path, base: Path) -> None:
    """An array of any shape, type and content as a pointmap or a mask."""
    name, shape, dtype, fill = case
    _whole(folder)
    array = np.zeros(shape, dtype)
    if array.dtype.kind in "fc":
        array[...] = {"nan": np.nan, "inf": np.inf, "huge": np.finfo(array.real.dtype).max, "negative": -1}.get(fill, 1)
    elif array.dtype.kind in "iub":
        array[...] = {"zeros": 0, "huge": np.iinfo(array.dtype).max if array.dtype.kind != "b" else 1}.get(fill, 1)
    if fill == "random" and array.dtype.kind in "f":
        array[...] = np.random.default_rng(0).standard_normal(shape)
    if fill == "fortran":
        array = np.asfortranarray(array)
    path = folder / ("odd" + Path(name).suffix)
    np.save(path, array, allow_pickle=True) if path.suffix == ".npy" else np.savez(path, pointmap=array)
    if name.startswith("pointmap"):
        found = load_object(folder, pointmap=str(path))
    else:
        found = load_object(folder / "image.png", mask_path=path)
    _sound(found)
