"""Reading of masks: what is the object in a picture, an array or an alpha channel.

What is read one way and might have been meant another way is added to a list of notices, one sentence each; what has no
one meaning is refused.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.arrays import read_array
from fast_sam3d.inputs.pictures import LOSSY, eight_bit, is_wide, open_picture

__all__ = ["ARRAYS", "alpha_mask", "check_shape", "checked_mask", "read_mask"]

log = logging.getLogger(__name__)

ARRAYS = (".npy", ".npz")
MAX_LABELS = 64
"""A mask with at most as many grey values, none of them white, is a label map."""
FAINT = 64
"""Alpha of 255 below which a pixel is faint."""
FAINT_SHARE = 0.2
"""Share of the object's pixels from which on faint ones are worth a notice."""
MIDDLE_SHARE = 0.35
"""Share of the pixels that are not black from which on grey ones are worth a notice."""
THIN = 3
"""Pixels; a mask that is nowhere wider may be an outline."""
BORDER_SHARE = 0.9
"""A mask that covers as much of the border, and most of the picture, is probably inverted."""
_STRIP = 256  # rows converted at a time, to avoid a second copy of a large image
_SAMPLES = 512  # rows and columns that the checks of colours look at


def read_mask(path: Path | str, threshold: float | None = None, notices: list[str] | None = None) -> NDArray[np.bool_]:
    """Read a mask as [H, W] bool.

    A varying alpha channel is the mask (alpha > 0, as in the stock loader). Otherwise the brightness is: above zero for
    two values, at least half of the full range for more (soft edges, lossy compression). Colours count, not their
    order in a palette; of two that are not black, the first of the palette is the background.

    Args:
        path: a picture, or an array [H, W] in a .npy or .npz file: bool, integers as in a grey picture, or floats from
            0 to 1.
        threshold: least share of the full range, in (0, 1], instead.
        notices: receives a sentence for whatever might have been meant otherwise.

    Raises:
        InputError: the mask is unreadable, empty, covers the whole image, or is a label map of several objects.
    """
    path, notices = Path(path), [] if notices is None else notices
    if path.suffix.lower() in ARRAYS:
        return _of_array(_plane(read_array(path), path), path, threshold, notices)
    picture = open_picture(path)
    lossy = picture.format in LOSSY
    if picture.mode in ("P", "PA") and "transparency" not in picture.info:
        indices = np.asarray(picture.getchannel(0))
        used = _levels(indices)
        colours = _palette(picture, used)
        coloured = any(len(set(colour)) > 1 for colour in colours)
        if coloured and len(used) > 2:
            raise _labels(path, f"{len(used)} colours of a palette")
        if coloured and threshold is None and len(colours) == len(used) == 2:
            if (0, 0, 0) in colours:
                return checked_mask(indices != used[colours.index((0, 0, 0))], path)
            first = _named(colours[0])
            notices.append(
                f"the mask in {path.name} has two colours, none of them black: {first} is read as the background"
            )
            return checked_mask(indices != used[0], path)
        picture = picture.convert("RGB" if coloured else "L")
    if is_wide(picture):
        return _by_brightness(np.asarray(picture), path, lossy, threshold, notices)
    picture = eight_bit(picture, path)
    if picture.mode == "P":
        picture = picture.convert("RGBA")
    if "A" in picture.getbands():
        alpha = np.asarray(picture.getchannel("A"))
        if alpha.min() != alpha.max():
            return alpha_mask(alpha, path, threshold, notices)
        log.info("%s: its alpha channel is constant, so its brightness is the mask", path)
        picture = picture.convert("RGB" if picture.mode.startswith("RGB") else "L")
    return _by_brightness(_brightness(picture, path), path, lossy, threshold, notices)


def alpha_mask(alpha: NDArray[np.uint8], path: Path, threshold: float | None, notices: list[str]) -> NDArray[np.bool_]:
    """The mask [H, W] of an alpha channel: above zero, or from `threshold` on. Raises InputError as `read_mask`."""
    if threshold is not None:
        return checked_mask(alpha >= threshold * 255, path, threshold)
    mask = alpha > 0
    share = float((mask & (alpha < FAINT)).sum()) / max(int(mask.sum()), 1)
    if share > FAINT_SHARE:
        notices.append(
            f"{share:.0%} of the object in {path.name} is faint (alpha 1 to {FAINT - 1} of 255), and all of it is "
            "read as the object: --mask_threshold 0.5 leaves it out"
        )
    return checked_mask(mask, path)


def check_shape(mask: NDArray[np.bool_], path: Path, notices: list[str]) -> None:
    """A notice for a mask that is thin everywhere, as an outline, or that covers most of the picture and of its border:
    then black may mark the object in it.
    """
    if not _has_block(mask, THIN + 1):
        notices.append(
            f"the mask in {path.name} is at most {THIN} pixels wide everywhere, and the model may find no object in "
            "it: if it is an outline, fill it"
        )
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if border.mean() >= BORDER_SHARE and mask.mean() > 0.5:
        notices.append(
            f"the mask in {path.name} covers the border and {mask.mean():.0%} of the picture: if it is inverted, "
            "save it with the object in white"
        )


def _has_block(mask: NDArray[np.bool_], side: int) -> bool:
    """Whether a square of `side` pixels lies inside of a mask [H, W]."""
    for _ in range(2):
        length = len(mask) - side + 1
        if length < 1:
            return False
        inside = mask[:length].copy()
        for start in range(1, side):
            inside &= mask[start : start + length]
        mask = inside.T
    return bool(mask.any())


def checked_mask(mask: NDArray[np.bool_], path: Path, threshold: float | None = None) -> NDArray[np.bool_]:
    """The mask. Raises InputError, naming the file, if it is empty or full."""
    about = "" if threshold is None else f" at --mask_threshold {threshold:g}"
    if not mask.any():
        raise InputError(
            f"the mask in {path} is empty{about}: mark the object in it, as white on black or in the alpha channel"
        )
    if mask.all():
        raise InputError(f"the mask in {path} covers the whole image{about}: make the background black or transparent")
    return mask


def _of_array(values: NDArray[Any], path: Path, threshold: float | None, notices: list[str]) -> NDArray[np.bool_]:
    """The mask of an array [H, W]."""
    if values.dtype.kind == "b":
        return checked_mask(values, path)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"the mask in {path} has values that are not finite: save it as bool")
        if low < 0 or high > 1:
            raise InputError(f"the mask in {path} has values from {low:g} to {high:g}: save it as bool, or from 0 to 1")
        return checked_mask(values >= (0.5 if threshold is None else threshold), path, threshold)
    if low < 0 or high > 65535:
        raise _labels(path, f"values from {low} to {high}")
    return _by_brightness(values.astype(np.uint16), path, False, threshold, notices)


def _plane(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """An array [H, W] without axes of length 1."""
    flat = np.squeeze(values) if values.ndim > 2 else values
    if flat.ndim == 3:
        raise _labels(path, f"shape {list(values.shape)}")
    if flat.ndim != 2:
        raise InputError(f"the mask in {path} has shape {list(values.shape)}: save it as [height, width]")
    return flat


def _by_brightness(
    grey: NDArray[Any], path: Path, lossy: bool, threshold: float | None, notices: list[str]
) -> NDArray[np.bool_]:
    """Threshold grey values [H, W] of 8 or 16 bits; a maximum below 256 means 8 bits."""
    values = _levels(grey)
    low, high = values[0], values[-1]
    full = 255 if high <= 255 else 65535
    half = (full + 1) // 2
    if threshold is not None:
        top = high if len(values) <= 2 and not lossy else full
        return checked_mask(grey >= threshold * top, path, threshold)
    limited = full == 255 and 8 <= low <= 24 and 225 <= high <= 245
    if limited and (lossy or len(values) > MAX_LABELS or _two_sided(grey, low, high)):
        notices.append(
            f"the mask in {path.name} has values from {low} to {high}, the limited range of video: read as black and "
            "white"
        )
        return checked_mask(grey >= half, path)
    if len(values) <= 2 and not lossy:
        if len(values) == 2 and 0 < low < full // 4 and high > full - full // 4:
            notices.append(
                f"the mask in {path.name} has the values {low} and {high}, which are read as black and white"
            )
            return checked_mask(grey == high, path)
        return checked_mask(grey > 0, path)
    if not lossy and len(values) <= MAX_LABELS and (high < full or _labels_with_void(grey, full)):
        raise _labels(path, f"the grey values {', '.join(str(v) for v in values[:5])}{' …' * (len(values) > 5)}")
    if high < half:
        raise InputError(
            f"the mask in {path} is too dark: its brightest pixel is {high} of {full}, but the object needs at "
            f"least {half}; save it as white on black, or set --mask_threshold"
        )
    if len(values) == 3 and not lossy:
        what = "counts as the object" if values[1] >= half else "does not count"
        notices.append(f"the mask in {path.name} has three values, {low}, {values[1]} and {high}: {values[1]} {what}")
        return checked_mask(grey >= half, path)
    log.info("%s: %d grey levels; the object has at least %d of %d", path, len(values), half, full)
    tenth = full // 10
    middle = float(((grey > tenth) & (grey < full - tenth)).sum()) / max(int((grey > tenth).sum()), 1)
    if middle > MIDDLE_SHARE:
        notices.append(
            f"{middle:.0%} of the mask in {path.name} is neither black nor white: pixels with at least {half} of "
            f"{full} are read as the object; --mask_threshold sets another limit"
        )
    return checked_mask(grey >= half, path)


def _two_sided(grey: NDArray[Any], low: int, high: int) -> bool:
    """Whether most pixels are near one of the two ends, as in a mask with soft edges."""
    return float(((grey <= low + 8) | (grey >= high - 8)).mean()) > 0.8


def _labels_with_void(grey: NDArray[Any], full: int) -> bool:
    """Whether values between black and white make up most of the object, in areas, as labels do, not as noise."""
    inner = (grey > 0) & (grey < full)
    if int(inner.sum()) <= int((grey == full).sum()):
        return False
    pairs = inner[:, 1:] & inner[:, :-1]
    return bool(pairs.any()) and float((grey[:, 1:] == grey[:, :-1])[pairs].mean()) > 0.8


def _brightness(picture: Any, path: Path) -> NDArray[np.uint8]:
    """Grey values [H, W]; of one colour on black its strongest channel.

    Raises:
        InputError: it has several colours, as a photograph or a label map.
    """
    if picture.mode not in ("RGB", "RGBX", "CMYK", "YCbCr"):
        return np.asarray(picture.convert("L"))
    # At most so many samples a side: a few thin lines in colour do not matter.
    step = max(max(picture.size) // _SAMPLES, 1)
    size = (-(-picture.width // step), -(-picture.height // step))
    sample = np.asarray(picture.convert("RGB").resize(size, resample=0)).reshape(-1, 3).astype(np.float32)
    strongest = sample.max(axis=1)
    coloured = strongest - sample.min(axis=1) > 40
    if coloured.mean() <= 0.01:
        return np.asarray(picture.convert("L"))
    hues = sample[coloured] / strongest[coloured, None]
    white = (~coloured & (strongest >= 128)).mean()
    if hues.std(axis=0).max() > 0.12 or white > 0.02:
        raise _labels(path, "several colours")
    return np.asarray(picture.convert("RGB")).max(axis=2)


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


def _named(colour: tuple[int, ...]) -> str:
    return "white" if colour == (255, 255, 255) else f"the colour {colour}"


def _labels(path: Path, what: str) -> InputError:
    return InputError(
        f"the mask in {path} has {what}, like a label map of several objects: choose one with --mask_path and "
        "--mask_label, or save one object as white on black"
    )
