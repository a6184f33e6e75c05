"""Conversion of callers' pictures, masks and pointmaps to uniform arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fast_sam3d.errors import InputError

MAX_SIDE = 2048
"""Pixels. Larger pictures are reduced by an integer factor first, to bound memory; the crop has only 64 pixels."""


def merge_rgba(image: Any, mask: Any = None) -> NDArray[np.uint8]:
    """One RGBA array from a picture and a mask.

    Args:
        image: PIL image or uint8 array, [H, W], [H, W, 3] or [H, W, 4].
        mask: PIL image or array [H, W] or [H, W, 1], the object where it is above 0; None takes the alpha channel.

    Returns:
        [H, W, 4] uint8, alpha 255 on the object and 0 elsewhere.

    Raises:
        InputError: no mask, an empty or full mask, a mask of another size than the picture, or not uint8.
    """
    if hasattr(image, "getbands"):  # a PIL image in any mode
        clear = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if clear else "RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (3, 4):
        raise InputError(
            f"the picture is {pixels.dtype} {list(pixels.shape)}: give [height, width, 3 or 4] of uint8 (0 to 255)"
        )
    if mask is None:
        if pixels.shape[-1] == 3:
            raise InputError("there is no mask: give one, or a picture with the object in its alpha channel")
        inside = pixels[..., 3] > 0
    else:
        inside = np.asarray(mask)
        if inside.ndim == 3 and inside.shape[-1] == 1:
            inside = inside[..., 0]
        if inside.shape != pixels.shape[:2]:
            raise InputError(
                f"the mask is {list(inside.shape)} and the picture {list(pixels.shape[:2])} (height, width):"
                " give the mask at the picture's size"
            )
        inside = inside > 0
    if not inside.any():
        raise InputError("the mask is empty: mark the object in it")
    if inside.all():
        raise InputError("the mask covers the whole picture: leave everything but the object out of it")
    alpha = np.where(inside, np.uint8(255), np.uint8(0))
    return np.concatenate([pixels[..., :3], alpha[..., None]], axis=-1)


def check_box(width: int, height: int) -> None:
    """Check the size of a mask's box for the published networks, whose crop is cut by it.

    Raises:
        InputError: fewer than 3 pixels across.
    """
    if min(width, height) < 3:
        raise InputError(f"the mask is only {width} x {height} pixels: mark at least 3 pixels in each direction")


def box_size(mask: NDArray[Any]) -> tuple[int, int]:
    """Width and height of the box of a mask [H, W] in pixels; 0 and 0 of an empty one."""
    if not (inside := np.asarray(mask) > 0).any():
        return 0, 0
    columns, rows = inside.any(0).nonzero()[0], inside.any(1).nonzero()[0]
    return int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1


def limit_size(rgba: NDArray[np.uint8], max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """Reduce a picture [H, W, 4] by the smallest integer factor for which its longer side is at most `max_side`.

    Colours are averaged; a reduced pixel belongs to the object if any of its pixels does.
    """
    if max(rgba.shape[:2]) <= max_side:
        return rgba
    colours, alpha = reduce_picture(rgba[..., :3], rgba[..., 3], max_side)
    return np.concatenate([colours, alpha[..., None]], axis=-1)


def reduce_picture(
    rgb: NDArray[np.uint8], mask: NDArray[Any], max_side: int = MAX_SIDE
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """`limit_size` of a picture [H, W, 3] uint8 and its mask [H, W] bool or uint8; dtypes are kept.

    A side that is shorter than the factor becomes one pixel.
    """
    return reduce_colours(rgb, max_side), reduce_mask(mask, max_side)


def reduce_view(
    rgb: NDArray[np.uint8], pointmap: NDArray[np.float32] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """`reduce_picture` of the picture [H, W, 3], and its pointmap at the same size; the same arrays if it is small."""
    reduced = reduce_colours(rgb)
    if pointmap is None or reduced is rgb:
        return reduced, pointmap
    return reduced, match_size(pointmap, *reduced.shape[:2]).numpy()


def reduce_colours(rgb: NDArray[np.uint8], max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """`reduce_picture` of the picture [H, W, 3] alone."""
    rows, columns, height, width = _blocks(rgb.shape, max_side)
    if rows * columns == 1:
        return rgb
    # Summed offset by offset, which avoids a float copy of the whole picture.
    total = np.zeros((height, width, 3), np.uint32)
    for row in range(rows):
        for column in range(columns):
            total += rgb[row : height * rows : rows, column : width * columns : columns]
    pixels = rows * columns
    return ((total + pixels // 2) // pixels).astype(np.uint8)


def reduce_mask(mask: NDArray[Any], max_side: int = MAX_SIDE) -> NDArray[Any]:
    """`reduce_picture` of the mask [H, W] alone."""
    rows, columns, height, width = _blocks(mask.shape, max_side)
    if rows * columns == 1:
        return mask
    covered = np.zeros((height, width), mask.dtype)
    for row in range(rows):
        for column in range(columns):
            np.maximum(covered, mask[row : height * rows : rows, column : width * columns : columns], out=covered)
    return covered


def _blocks(shape: tuple[int, ...], max_side: int) -> tuple[int, int, int, int]:
    """Rows and columns of a block that becomes one pixel, and the number of blocks along each axis."""
    factor = max(-(-max(shape[:2]) // max_side), 1)
    rows, columns = (min(factor, side) for side in shape[:2])
    return rows, columns, shape[0] // rows, shape[1] // columns


def check_points(pointmap: Any, height: int, width: int) -> torch.Tensor:
    """A pointmap [h, w, 3] float32 on the CPU.

    Raises:
        InputError: not [h, w, 3], or of another aspect ratio than a picture [height, width].
    """
    points = torch.as_tensor(pointmap, dtype=torch.float32, device="cpu")
    if points.ndim != 3 or points.shape[-1] != 3 or not points.numel():
        raise InputError(f"the pointmap is {list(points.shape)}: give [height, width, 3]")
    rows, columns = points.shape[:2]
    if abs(rows * width - columns * height) > max(rows, columns) + max(width, height):
        raise InputError(
            f"the pointmap is {rows}x{columns} and the picture {height}x{width}: make it from that picture"
        )
    return points


def match_size(pointmap: Any, height: int, width: int) -> torch.Tensor:
    """A pointmap resampled to [height, width, 3] float32 by nearest points; unknown ones, also z <= 0, are NaN.

    Raises:
        InputError: see `check_points`.
    """
    points = check_points(pointmap, height, width)
    rows, columns = points.shape[:2]
    if (rows, columns) != (height, width):
        r = ((torch.arange(height, device="cpu") + 0.5) * rows / height).long()
        c = ((torch.arange(width, device="cpu") + 0.5) * columns / width).long()
        points = points[r[:, None], c]
    return torch.where(points.isfinite().all(-1, keepdim=True) & (points[..., 2:] > 0), points, torch.nan)
