"""Reads a picture, the mask of one object in it and, where there is one, a pointmap; refuses what cannot be used.

Nothing is decoded before its header says that it fits into bounded memory. Kinds of picture whose meaning is clear
(grey, palette, 16-bit, RGBA, CMYK) are converted with a log line; the others are refused.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, suggest
from fast_sam3d.pointmap_file import find_pointmap, read_pointmap

__all__ = [
    "MAX_MEGAPIXELS",
    "ObjectInput",
    "find_image",
    "list_masks",
    "load_object",
    "numbered_masks",
    "picture_size",
    "read_image",
    "read_mask",
    "read_picture",
    "result_name",
]

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 64  # 8k x 8k: 192 MB as RGB
MIN_SIDE = 8  # pixels
MAX_NAME = 200  # bytes; file systems take 255
# Lossless and lossy raster formats. Naming them keeps Pillow from trying formats that run other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_LOSSY = ("JPEG", "MPO", "WEBP")
_MASK_NAME = re.compile(r"(\d+)\.png", re.IGNORECASE)
_OTHER_MASK_NAME = re.compile(r"(\d+)\.(jpe?g|webp|bmp|tiff?|gif|ppm)", re.IGNORECASE)
MAX_LABELS = 64
"""A mask with as few grey values, none of them white, holds numbers of objects and not brightness."""
_STRIP = 256  # rows that are converted at a time, so that no second copy of a large picture is made


@dataclass(frozen=True, slots=True, eq=False)
class ObjectInput:
    """One object to reconstruct.

    Args:
        name: a file name for its results, made of the picture's name and the mask's number.
        image: [H, W, 3] uint8, RGB.
        mask: [H, W] bool, True on the object.
        pointmap: [H, W, 3] float32 in metres or any one unit, PyTorch3D camera frame (+x left, +y up, +z forward),
            NaN where unknown; or None.
        size: (width, height) of the picture in its file, in pixels.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    pointmap: NDArray[np.float32] | None
    image_path: Path
    mask_path: Path
    pointmap_path: Path | None
    size: tuple[int, int]


def load_object(
    image_path: Path | str, mask_index: int | None = None, mask_path: Path | str | None = None, pointmap: str = "auto"
) -> ObjectInput:
    """Reads everything that one object needs.

    Args:
        image_path: a folder with image.png and masks 0.png, 1.png ... (gaps are fine), or an image file.
        mask_index: the number of the mask beside the picture; None takes the lowest.
        mask_path: a mask file to use instead.
        pointmap: "auto" takes pointmap.npz or pointmap.npy beside the picture if it is there, "none" takes none,
            anything else is the path of a file.

    Raises:
        InputError: with one sentence that says what to do.
    """
    try:
        return _load(Path(image_path), mask_index, mask_path, pointmap)
    except InputError:
        raise
    except OSError as error:  # a folder that may not be listed, a name too long for the file system
        raise InputError(f"{image_path} cannot be read ({error.strerror or error}): check the path") from error


def _load(image_path: Path, mask_index: int | None, mask_path: Path | str | None, pointmap: str) -> ObjectInput:
    image_file = find_image(image_path)
    folder = image_file.parent
    image, alpha = read_picture(image_file)
    if mask_path is not None:
        mask_file = Path(mask_path)
        mask = read_mask(mask_file)
        label = mask_file.stem
    else:
        masks = list_masks(folder)
        if mask_index is None and not masks and alpha is not None:
            log.info("%s: no mask beside it, so its alpha channel is the mask", image_file)
            mask_file, mask, label = image_file, _checked(alpha > 0, image_file), "alpha"
        else:
            mask_file = _pick_mask(masks, mask_index, folder)
            mask = read_mask(mask_file)
            label = str(int(mask_file.stem))
    if mask.shape == image.shape[1::-1] != image.shape[:2]:
        turned, _ = read_picture(image_file, upright=True)
        if turned.shape[:2] == mask.shape:
            log.info("%s: turned as its EXIF data says, because the mask is", image_file)
            image = turned
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{mask_file} is {mask.shape[1]}x{mask.shape[0]} pixels and {image_file} is {image.shape[1]}x"
            f"{image.shape[0]}: save the mask at the picture's size"
        )
    points_file = find_pointmap(folder, pointmap)
    points = None if points_file is None else read_pointmap(points_file, image.shape[:2], mask)
    base = image_file.stem if image_file.stem.lower() != "image" else image_file.resolve().parent.name
    size = (image.shape[1], image.shape[0])
    return ObjectInput(result_name(base, label), image, mask, points, image_file, mask_file, points_file, size)


def list_masks(folder: Path) -> dict[int, Path]:
    """Returns the numbered masks of a folder, by number. Of 1.png and 01.png the plain name is taken."""
    return {number: paths[0] for number, paths in numbered_masks(folder).items()}


def numbered_masks(folder: Path) -> dict[int, list[Path]]:
    """Returns every numbered mask of a folder, by number; of several with one number the plain name comes first."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name)):
        match = _MASK_NAME.fullmatch(path.name)
        if match and path.is_file():
            found.setdefault(int(match.group(1)), []).append(path)
    return dict(sorted(found.items()))


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Reads a picture as [H, W, 3] uint8 RGB; transparency is ignored. Raises InputError."""
    return read_picture(Path(path))[0]


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """Reads a mask as [H, W] bool.

    An alpha channel that varies is the mask (its object is where alpha > 0, as the stock loader has it). Otherwise
    the brightness is: above zero if only two values occur, at least half of the full range if more do (soft edges,
    lossy compression). In a palette file of colours index 0 is the background.

    Raises:
        InputError: unreadable, empty, covering the whole picture, or with the numbers of several objects.
    """
    path = Path(path)
    picture = _open(path)
    lossy = picture.format in _LOSSY
    if picture.mode in ("P", "PA") and "transparency" not in picture.info:
        indices = np.asarray(picture.getchannel(0))
        used = _levels(indices)
        if len(used) <= 2:
            return _checked(indices > 0, path)
        if any(len(set(colour)) > 1 for colour in _palette(picture, used)):
            raise _labels(path, f"{len(used)} colours of a palette")
        picture = picture.convert("L")
    if _is_wide(picture):
        return _by_brightness(np.asarray(picture), path, lossy)
    picture = _eight_bit(picture, path)
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    if "A" in picture.getbands():
        alpha = np.asarray(picture.getchannel("A"))
        if alpha.min() != alpha.max():
            return _checked(alpha > 0, path)
        log.info("%s: its alpha channel is the same everywhere, so its brightness is the mask", path)
        picture = picture.convert("LA").getchannel(0)
    return _by_brightness(np.asarray(picture.convert("L")), path, lossy)


def _by_brightness(grey: NDArray[Any], path: Path, lossy: bool) -> NDArray[np.bool_]:
    """The mask in grey values [H, W] of 8 or 16 bits; a 16-bit file that stays below 256 holds 8 bits."""
    values = _levels(grey)
    if len(values) <= 2 and not lossy:
        return _checked(grey > 0, path)
    full = 255 if values[-1] <= 255 else 65535
    if not lossy and len(values) <= MAX_LABELS and values[-1] < full:
        raise _labels(path, f"the grey values {', '.join(str(v) for v in values[:5])}{' …' * (len(values) > 5)}")
    half = (full + 1) // 2
    if values[-1] < half:
        raise InputError(
            f"the mask in {path} is too dark: its brightest pixel is {values[-1]} of {full} and the object counts from "
            f"{half} on; save it as white on black"
        )
    log.info("%s: %d grey levels; the object is where it is at least %d of %d", path, len(values), half, full)
    return _checked(grey >= half, path)


def _levels(grey: NDArray[Any]) -> list[int]:
    """The values that occur, ascending; above 65535 as 65535."""
    seen = np.zeros(65536, bool)
    for top in range(0, len(grey), _STRIP):
        seen[grey[top : top + _STRIP].astype(np.int64).clip(0, 65535)] = True
    return [int(value) for value in np.flatnonzero(seen)]


def _palette(picture: Any, indices: list[int]) -> list[tuple[int, ...]]:
    """Colours (r, g, b) of some indices; one that the palette lacks is left out."""
    flat = picture.convert("P").getpalette("RGB") if picture.mode == "PA" else picture.getpalette("RGB")
    return [tuple(flat[3 * i : 3 * i + 3]) for i in indices if 3 * i + 3 <= len(flat)]


def _labels(path: Path, what: str) -> InputError:
    return InputError(
        f"the mask in {path} holds {what}, as a map of several objects does: save the one object as white on black"
    )


def _checked(mask: NDArray[np.bool_], path: Path) -> NDArray[np.bool_]:
    if not mask.any():
        raise InputError(
            f"the mask in {path} is empty: mark the object in it, as white on black or in the alpha channel"
        )
    if mask.all():
        raise InputError(f"the mask in {path} covers the whole picture: leave everything but the object black or clear")
    return mask


def find_image(path: Path) -> Path:
    """Resolves --image_path to the picture itself."""
    if path.is_dir():
        # Cameras and some systems write IMAGE.PNG; the plain name wins.
        there = {p.name.lower(): p for p in sorted(path.iterdir(), key=lambda p: p.name) if p.is_file()}
        for suffix in _SUFFIXES:
            if f"image{suffix}" in there:
                return there[f"image{suffix}"]
        raise InputError(f"the folder {path} holds no image.png: put the picture there under that name, or name a file")
    if not path.exists():
        near = suggest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        hint = f" ({near})" if near.startswith("did") else ""
        raise InputError(f"there is no picture at {path}: check --image_path{hint}")
    return path


def _pick_mask(masks: dict[int, Path], index: int | None, folder: Path) -> Path:
    others = {int(m[1]): p for p in sorted(folder.iterdir()) if (m := _OTHER_MASK_NAME.fullmatch(p.name))}
    if others and (not masks if index is None else index not in masks and index in others):
        other = others[index] if index is not None else others[min(others)]
        raise InputError(
            f"{folder} holds {other.name}, and numbered masks are PNG files: save it as {other.stem}.png, or name it "
            "with --mask_path"
        )
    if not masks:
        raise InputError(f"{folder} holds no mask: save one there as 0.png, or name one with --mask_path")
    if index is None:
        first = next(iter(masks))
        if len(masks) > 1:
            log.info("%d masks in %s: taking %d; choose with --mask_index", len(masks), folder, first)
        return masks[first]
    if index not in masks:
        there = ", ".join(str(i) for i in masks)
        raise InputError(f"{folder} has no mask {index}.png: those that are there are {there}")
    return masks[index]


def read_picture(path: Path, upright: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Returns [H, W, 3] uint8 and the alpha channel [H, W] uint8 where there is one that varies.

    `upright` turns the picture as its EXIF data says. The stock loader does not, so it is no default.
    """
    from PIL import ImageOps

    picture = _eight_bit(_open(path), path)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if min(picture.size) < MIN_SIDE:
        raise InputError(f"{path} is {picture.width}x{picture.height} pixels: at least {MIN_SIDE} a side are needed")
    alpha = None
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if "A" in picture.getbands():
        channel = np.asarray(picture.getchannel("A"))
        alpha = channel if channel.min() != channel.max() else None
        log.info("%s: RGBA; its colours are used as they are under the transparency", path)
    elif picture.mode != "RGB":
        log.info(
            "%s: %s, converted to RGB",
            path,
            {"L": "grey", "P": "palette", "1": "1-bit"}.get(picture.mode, picture.mode),
        )
    return _rgb(picture), alpha


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from a picture's header; None where it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                return picture.width, picture.height
    except Exception:  # as in `_open`, where whoever reads it is told
        return None


def _rgb(picture: Any) -> NDArray[np.uint8]:
    """[H, W, 3] uint8, converted by strips."""
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, _STRIP):
        bottom = min(top + _STRIP, picture.height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
    return rgb


def _is_wide(picture: Any) -> bool:
    """Whether it is 16-bit grey, which Pillow may hold in 32 bits."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))


def _eight_bit(picture: Any, path: Path) -> Any:
    """Scales 16-bit grey to 8 bits; refuses kinds whose range is a guess."""
    from PIL import Image

    if _is_wide(picture):
        log.info("%s: 16-bit, scaled to 8 bits", path)
        wide = np.asarray(picture)
        return Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
    if picture.mode not in ("RGB", "RGBA", "RGBX", "RGBa", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr"):
        raise InputError(
            f"{path} stores its pixels as '{picture.mode}', whose range is not known: save it as an 8-bit PNG or JPEG"
        )
    return picture


def _open(path: Path) -> Any:
    """Opens and fully decodes a picture, after its header has said that it is not too large."""
    from PIL import Image

    if not path.exists():
        raise InputError(f"there is no file at {path}: check the path")
    if not path.is_file():
        raise InputError(f"{path} is not a file: name a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(path, formats=_FORMATS)
        with picture:
            megapixels = picture.width * picture.height / 1e6
            if megapixels > MAX_MEGAPIXELS:
                raise _too_large(path, f"{picture.width}x{picture.height} pixels")
            if getattr(picture, "is_animated", False):
                log.info("%s: several frames; the first is used", path)
            picture.load()
            # The pixels stay when the file is closed. Not so with several frames, which are read from it again.
            if not getattr(picture, "is_animated", False):
                return picture
            loaded = picture.copy()
            loaded.format = picture.format
            return loaded
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "far too many pixels") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture: give a PNG or JPEG file") from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds, SyntaxError and struct.error among them
        raise InputError(f"{path} is damaged or cut short ({_brief(error)}): save or copy it again") from error


def _too_large(path: Path, size: str) -> InputError:
    return InputError(f"{path} has {size}, more than {MAX_MEGAPIXELS} megapixels: scale it and its masks down")


def _brief(error: BaseException) -> str:
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__).rstrip(".")


def result_name(base: str, label: str) -> str:
    """A name of at most `MAX_NAME` bytes; of a longer one the start, a checksum of all, and the label."""
    name, label = (re.sub(r"[^\w.-]+", "_", part) for part in (base, label))
    whole = f"{name}_{label}".strip("._") or "object"
    if len(whole.encode()) <= MAX_NAME:
        return whole
    start = whole.encode()[: MAX_NAME // 2].decode(errors="ignore")
    end = label if len(label.encode()) <= 20 else "mask"
    return f"{start}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}_{end}"
