"""Reading of pictures.

An image is decoded only if its header shows that it is not too large. Unambiguous formats (grey, palette, 16-bit, RGBA,
CMYK) are converted with a log message; others are refused.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line, is_out_of_memory

__all__ = [
    "LOSSY", "MAX_MEGAPIXELS", "Picture", "check_range", "eight_bit", "is_wide", "open_picture", "orientation_in",
    "picture_size", "read_picture", "turned",
]  # fmt: skip

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 64  # 8k x 8k: 192 MB as RGB
MAX_SIDE = 65_535  # pixels, as of JPEG and GIF; strips of more, and what is padded to a square, would take gigabytes
MIN_SIDE = 8  # pixels
# Raster formats; without this list Pillow would also try formats that run other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
"""Formats whose pixels may differ from those that were saved."""
DARK = 32
_ORIENTATION = 0x0112  # the EXIF tag
_STRIP = 256  # rows converted at a time, to avoid a second copy of a large image


class Picture(NamedTuple):
    """A picture as it is stored.

    Args:
        rgb: [H, W, 3] uint8.
        alpha: [H, W] uint8; None if constant.
        orientation: 1 to 8, the EXIF tag that says how to turn it for display; see `turned`.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    orientation: int = 1

    @property
    def upright(self) -> Picture:
        """As it is displayed."""
        alpha = None if self.alpha is None else turned(self.alpha, self.orientation)
        return Picture(turned(self.rgb, self.orientation), alpha)


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels [H, W, ...] as an EXIF orientation, 1 to 8, says to display them."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def read_picture(path: Path) -> Picture:
    """Read a picture; its EXIF orientation is not applied, as in the stock loader.

    Raises:
        InputError: unreadable, too large or too small.
    """
    picture = open_picture(path)
    orientation = orientation_of(picture)
    picture = eight_bit(picture, path)
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
    return Picture(_rgb(picture), alpha, orientation)


def check_range(rgb: NDArray[np.uint8], path: Path, notices: list[str]) -> None:
    """Notices for a picture [H, W, 3] that is very dark, as of a 12-bit camera, or of video's limited range.

    The latter has nothing outside of 16 to 235, and both ends in use.
    """
    step = max(max(rgb.shape) // 512, 1)
    shares = np.bincount(rgb[::step, ::step].ravel(), minlength=256) / rgb[::step, ::step].size
    if shares[DARK:].sum() == 0:
        notices.append(
            f"{path.name} has no value above {DARK - 1} of 255: if it looks black, save it with the full range"
        )
    black, white = shares[14:19].sum(), shares[233:238].sum()
    if shares[:14].sum() + shares[238:].sum() < 0.001 and min(black, white) > 0.002:
        notices.append(
            f"{path.name} has no colours below 16 and above 235, the limited range of video: if it looks pale, save it "
            "with the full range"
        )


def orientation_of(picture: Any) -> int:
    """The EXIF orientation of an opened picture, 1 to 8; 1 where there is none or it is damaged."""
    try:
        tag = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged metadata; the pixels are fine
        return 1
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def orientation_in(path: Path) -> int:
    """The EXIF orientation of a picture's file, from its header; 1 for other files."""
    with _header(path) as picture:
        # Pillow turns TIFF files itself.
        return 1 if picture is None or picture.format == "TIFF" else orientation_of(picture)


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from a picture's header; None if unreadable."""
    with _header(path) as picture:
        return None if picture is None else (picture.width, picture.height)


@contextlib.contextmanager
def _header(path: Path) -> Iterator[Any]:
    """A picture that is opened but not decoded; None if unreadable."""
    from PIL import Image

    with contextlib.ExitStack() as stack:
        picture = None
        with contextlib.suppress(Exception), warnings.catch_warnings():  # reported by `open_picture` when it is read
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = stack.enter_context(Image.open(path, formats=_formats()))
        yield picture


def _rgb(picture: Any) -> NDArray[np.uint8]:
    """Convert to [H, W, 3] uint8, in strips."""
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, _STRIP):
        bottom = min(top + _STRIP, picture.height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
    return rgb


def is_wide(picture: Any) -> bool:
    """Whether it is 16-bit grey, which Pillow may store with 32 bits."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))


def eight_bit(picture: Any, path: Path) -> Any:
    """Scale 16-bit grey to 8 bits; refuse modes with an unknown range."""
    from PIL import Image

    if is_wide(picture):
        log.info("%s: 16-bit, scaled to 8 bits", path)
        wide = np.asarray(picture)
        return Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
    if picture.mode not in ("RGB", "RGBA", "RGBX", "RGBa", "L", "LA", "La", "P", "PA", "1", "CMYK", "YCbCr"):
        raise InputError(
            f"{path} stores its pixels as '{picture.mode}', of unknown range: save it as an 8-bit PNG or JPEG"
        )
    return picture


def open_picture(path: Path) -> Any:
    """Open and decode an image, after checking the size in its header."""
    from PIL import Image

    if not path.exists():
        raise InputError(f"there is no file at {path}: check the path")
    if not path.is_file():
        raise InputError(f"{path} is not a file: name a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(path, formats=_formats())
        with picture:
            size = f"{picture.width}x{picture.height} pixels"
            if picture.width * picture.height / 1e6 > MAX_MEGAPIXELS:
                raise _too_large(path, size)
            if max(picture.size) > MAX_SIDE:
                raise InputError(f"{path} has {size}: crop it and its masks to at most {MAX_SIDE:,} a side")
            if getattr(picture, "is_animated", False):
                log.info("%s: several frames; the first is used", path)
            if picture.format == "PNG":
                with Image.open(path, formats=["PNG"]) as again:
                    again.verify()  # decoding looks at no checksum of the pixels
            picture.load()
            # Pixels stay valid after closing, except with several frames, which are read from the file again.
            if not getattr(picture, "is_animated", False):
                return picture
            loaded = picture.copy()
            loaded.format = picture.format
            return loaded
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "far too many pixels") from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: change its permissions") from error
    except Image.UnidentifiedImageError as error:
        if (kind := _kind_without_plugin(path)) is not None:
            raise InputError(
                f'{path} is a {kind} picture, for which a package is missing: pip install "fast-sam3d[heif]", or save '
                "it as PNG or JPEG"
            ) from error
        raise InputError(f"{path} is not a picture: give a PNG or JPEG file") from error
    except Exception as error:  # Pillow's decoders raise many types, such as SyntaxError and struct.error
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{path} is damaged or incomplete ({first_line(error).rstrip('.')}): save or copy it again"
        ) from error


def _too_large(path: Path, size: str) -> InputError:
    return InputError(f"{path} has {size}, more than {MAX_MEGAPIXELS} megapixels: scale it and its masks down")


def _formats() -> list[str]:
    """The formats that are read, with HEIC and AVIF where Pillow or pillow-heif has them."""
    from PIL import Image

    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.preinit()
    if "AVIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            from PIL import AvifImagePlugin  # noqa: F401 (registers itself)
    return [*_FORMATS, *(name for name in ("HEIF", "AVIF") if name in Image.OPEN)]


def _kind_without_plugin(path: Path) -> str | None:
    """ "HEIC" or "AVIF" for a file whose first bytes say so."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(32)
        if start[4:8] == b"ftyp":
            return "AVIF" if b"avi" in start[8:] else "HEIC" if b"hei" in start[8:] or b"mif1" in start[8:] else None
    return None
