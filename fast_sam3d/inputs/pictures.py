"""Reading of images and masks.

An image is decoded only if its header shows that it is not too large. Unambiguous formats (grey, palette, 16-bit, RGBA,
CMYK) are converted with a log message; others are refused.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line

__all__ = ["MAX_MEGAPIXELS", "checked_mask", "picture_size", "read_mask", "read_picture"]

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 64  # 8k x 8k: 192 MB as RGB
MIN_SIDE = 8  # pixels
# Raster formats; without this list Pillow would also try formats that run other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_LOSSY = ("JPEG", "MPO", "WEBP")
MAX_LABELS = 64
"""A mask with at most as many grey values, none of them white, is a label map."""
_STRIP = 256  # rows converted at a time, to avoid a second copy of a large image


def read_mask(path: Path | str) -> NDArray[np.bool_]:
    """Read a mask as [H, W] bool.

    A varying alpha channel is the mask (alpha > 0, as in the stock loader). Otherwise the brightness is: above zero for
    two values, at least half of the full range for more (soft edges, lossy compression). Index 0 of a palette with two
    colours is the background.

    Raises:
        InputError: the mask is unreadable, empty, covers the whole image, or is a label map of several objects.
    """
    path = Path(path)
    picture = _open(path)
    lossy = picture.format in _LOSSY
    if picture.mode in ("P", "PA") and "transparency" not in picture.info:
        indices = np.asarray(picture.getchannel(0))
        used = _levels(indices)
        if len(used) <= 2:
            return checked_mask(indices > 0, path)
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
            return checked_mask(alpha > 0, path)
        log.info("%s: its alpha channel is constant, so its brightness is the mask", path)
        picture = picture.convert("LA").getchannel(0)
    return _by_brightness(np.asarray(picture.convert("L")), path, lossy)


def _by_brightness(grey: NDArray[Any], path: Path, lossy: bool) -> NDArray[np.bool_]:
    """Threshold grey values [H, W] of 8 or 16 bits; a maximum below 256 means 8 bits."""
    values = _levels(grey)
    if len(values) <= 2 and not lossy:
        return checked_mask(grey > 0, path)
    full = 255 if values[-1] <= 255 else 65535
    if not lossy and len(values) <= MAX_LABELS and values[-1] < full:
        raise _labels(path, f"the grey values {', '.join(str(v) for v in values[:5])}{' …' * (len(values) > 5)}")
    half = (full + 1) // 2
    if values[-1] < half:
        raise InputError(
            f"the mask in {path} is too dark: its brightest pixel is {values[-1]} of {full}, but the object needs at "
            f"least {half}; save it as white on black"
        )
    log.info("%s: %d grey levels; the object has at least %d of %d", path, len(values), half, full)
    return checked_mask(grey >= half, path)


def _levels(grey: NDArray[Any]) -> list[int]:
    """Sorted unique values, clipped to 65535."""
    seen = np.zeros(65536, bool)
    for top in range(0, len(grey), _STRIP):
        seen[grey[top : top + _STRIP].astype(np.int64).clip(0, 65535)] = True
    return [int(value) for value in np.flatnonzero(seen)]


def _palette(picture: Any, indices: list[int]) -> list[tuple[int, ...]]:
    """Colours (r, g, b) of some indices, without those missing in the palette."""
    flat = picture.convert("P").getpalette("RGB") if picture.mode == "PA" else picture.getpalette("RGB")
    return [tuple(flat[3 * i : 3 * i + 3]) for i in indices if 3 * i + 3 <= len(flat)]


def _labels(path: Path, what: str) -> InputError:
    return InputError(
        f"the mask in {path} has {what}, like a label map of several objects: save one object as white on black"
    )


def checked_mask(mask: NDArray[np.bool_], path: Path) -> NDArray[np.bool_]:
    """The mask. Raises InputError, naming the file, if it is empty or full."""
    if not mask.any():
        raise InputError(
            f"the mask in {path} is empty: mark the object in it, as white on black or in the alpha channel"
        )
    if mask.all():
        raise InputError(f"the mask in {path} covers the whole image: make the background black or transparent")
    return mask


def read_picture(path: Path, upright: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """RGB [H, W, 3] uint8, and the alpha channel [H, W] uint8 if it varies.

    `upright` applies the EXIF orientation, which the stock loader ignores.
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
        log.info("%s: RGBA; colours are used without compositing", path)
    elif picture.mode != "RGB":
        log.info(
            "%s: %s, converted to RGB",
            path,
            {"L": "grey", "P": "palette", "1": "1-bit"}.get(picture.mode, picture.mode),
        )
    return _rgb(picture), alpha


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from an image's header; None if unreadable."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                return picture.width, picture.height
    except Exception:  # reported by `_open` when it is read
        return None


def _rgb(picture: Any) -> NDArray[np.uint8]:
    """Convert to [H, W, 3] uint8, in strips."""
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, _STRIP):
        bottom = min(top + _STRIP, picture.height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
    return rgb


def _is_wide(picture: Any) -> bool:
    """Whether it is 16-bit grey, which Pillow may store with 32 bits."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))


def _eight_bit(picture: Any, path: Path) -> Any:
    """Scale 16-bit grey to 8 bits; refuse modes with an unknown range."""
    from PIL import Image

    if _is_wide(picture):
        log.info("%s: 16-bit, scaled to 8 bits", path)
        wide = np.asarray(picture)
        return Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
    if picture.mode not in ("RGB", "RGBA", "RGBX", "RGBa", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr"):
        raise InputError(
            f"{path} stores its pixels as '{picture.mode}', of unknown range: save it as an 8-bit PNG or JPEG"
        )
    return picture


def _open(path: Path) -> Any:
    """Open and decode an image, after checking the size in its header."""
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
            # Pixels stay valid after closing, except with several frames, which are read from the file again.
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
        raise InputError(f"{path} cannot be read: change its permissions") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture: give a PNG or JPEG file") from error
    except Exception as error:  # Pillow's decoders raise many types, such as SyntaxError and struct.error
        raise InputError(
            f"{path} is damaged or incomplete ({first_line(error).rstrip('.')}): save or copy it again"
        ) from error


def _too_large(path: Path, size: str) -> InputError:
    return InputError(f"{path} has {size}, more than {MAX_MEGAPIXELS} megapixels: scale it and its masks down")
