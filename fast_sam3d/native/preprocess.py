"""What the condition embedders take, of a picture, its mask and its pointmap.

Sizes, order and padding follow sam3d_objects/data/dataset/tdfy: preprocessor.py (`PreProcessor`),
img_and_mask_transforms.py (`ObjectCentricSSI`, `crop_around_mask_with_padding`), img_processing.py
(`pad_to_square_centered`), with the values of the published pipeline.yaml.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.errors import InputError
from fast_sam3d.model.inputs import check_box

__all__ = ["Preprocessor", "camera_points", "fit_points", "normalise_points"]

log = logging.getLogger(__name__)

LARGEST_SQUARE = 64_000_000
"""Pixels of a padded square that is built. Of a picture of 8 x 65,535 it would have 4 billion."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two not included; may reach outside of the picture."""


@dataclass(frozen=True)
class Preprocessor:
    """Crop of the object and the full picture, both square, for the embedders of both stages.

    Everything runs on the CPU, on every device: the results do not depend on it, and Apple's MPS has neither
    `nanmedian` nor antialiased resizing.

    Args:
        size: side of the results, pixels.
        box_size_factor: side of the crop in units of the longer side of the mask's box.
    """

    size: int = 518
    box_size_factor: float = 1.2

    def __call__(
        self, rgba: NDArray[np.uint8], pointmap: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Inputs of the embedders.

        Args:
            rgba: [H, W, 4] uint8; the object is where alpha is not 0, and its points are taken where alpha > 127.
            pointmap: [3, H, W] in the camera frame of PyTorch3D, NaN where unknown; None for the second stage.
            device: of the results.

        Returns:
            image, rgb_image [1, 3, S, S] (crop, full picture) and mask, rgb_image_mask [1, 1, S, S], in 0..1. With a
            pointmap also pointmap, rgb_pointmap [1, 3, S, S], normalised, NaN where unknown or, of the crop, where
            rounding made its box one pixel uneven, and 0 elsewhere outside of the picture; pointmap_scale,
            pointmap_shift [1, 3] in its units, and the same as rgb_pointmap_scale, rgb_pointmap_shift. All float32.

        Raises:
            InputError: another shape or type, or a mask that is empty or has fewer than 3 pixels across.
        """
        if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
            raise InputError(
                f"the picture is {list(rgba.shape)} of {rgba.dtype}: give [H, W, 4] of uint8 with the mask as alpha"
            )
        values = torch.tensor(rgba, device="cpu").permute(2, 0, 1).contiguous() / 255
        rgb, mask = values[:3], values[3:]
        box, whole = crop_box(mask[0], self.box_size_factor), _around(*rgba.shape[:2])
        found = {
            "mask": self._resized(mask, box, 0.0, "nearest"),
            "image": self._resized(rgb, box, 0.0, "bilinear"),
            "rgb_image": self._resized(rgb, whole, 0.0, "bilinear"),
            "rgb_image_mask": self._resized(mask, whole, 0.0, "nearest"),
        }
        if pointmap is not None:
            if tuple(pointmap.shape) != (3, *rgba.shape[:2]):
                raise InputError(
                    f"the pointmap is {list(pointmap.shape)} and the picture {list(rgba.shape)}: give [3, H, W] of the "
                    "same picture"
                )
            points, scale, shift = normalise_points(pointmap.detach().to("cpu", torch.float32), mask[0] > 0.5)
            found["pointmap"] = self._resized(points, box, torch.nan, "nearest")
            found["rgb_pointmap"] = self._resized(points, whole, 0.0, "nearest")
            for name in ("pointmap", "rgb_pointmap"):
                found |= {f"{name}_scale": scale, f"{name}_shift": shift}
        return {name: value[None].to(device) for name, value in found.items()}

    def _resized(self, image: Tensor, box: Box, uneven: float, mode: str) -> Tensor:
        """A box of [C, H, W] as `_crop` makes it, resized to [C, S, S].

        Where that square is too large to be built, its part inside of the picture is resized before it is padded: the
        same but for rounding to whole pixels of the result.
        """
        antialias = mode == "bilinear"
        left, top, right, bottom = box
        side = max(right - left, bottom - top)
        if side**2 <= LARGEST_SQUARE:
            return F.interpolate(
                _crop(image, box, uneven)[None], (self.size, self.size), mode=mode, antialias=antialias
            )[0]
        inside, scale = image[:, max(top, 0) : bottom, max(left, 0) : right], self.size / side
        rows, columns = (min(max(round(count * scale), 1), self.size) for count in inside.shape[1:])
        row, column = (
            min(round(max(-start, 0) * scale), self.size - count) for start, count in ((top, rows), (left, columns))
        )
        square = image.new_zeros(len(image), self.size, self.size)
        square[:, row : row + rows, column : column + columns] = F.interpolate(
            inside[None], (rows, columns), mode=mode, antialias=antialias
        )[0]
        return square


def crop_box(mask: Tensor, factor: float) -> Box:
    """The box of the crop around a mask [H, W].

    Raises:
        InputError: see `Preprocessor.__call__`.
    """
    rows, columns = (mask.any(dim).nonzero()[:, 0] for dim in (1, 0))
    if not len(rows):
        raise InputError("the mask is empty: mark the object in it")
    left, right, top, bottom = (int(line[end]) for line in (columns, rows) for end in (0, -1))
    width, height = right - left, bottom - top  # without the last pixel, as in the stock code
    check_box(width + 1, height + 1)
    half = int(max(width, height) * factor) // 2
    x, y = (left + right) / 2, (top + bottom) / 2
    # `int` rounds towards 0: beyond the left or top border, on odd boxes, the crop gets a pixel smaller.
    return int(x - half), int(y - half), int(x + half), int(y + half)


def _around(height: int, width: int) -> Box:
    """The square around a whole picture; where the padding is odd, its larger half is at the right or bottom."""
    longer = max(height, width)
    left, top = -((longer - width) // 2), -((longer - height) // 2)
    return left, top, left + longer, top + longer


def _crop(image: Tensor, box: Box, uneven: float) -> Tensor:
    """A box of [C, H, W], 0 outside of the picture, made square with `uneven` where one side is a pixel shorter."""
    left, top, right, bottom = box
    height, width = image.shape[1:]
    inside = image[:, max(top, 0) : bottom, max(left, 0) : right]
    beyond = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    return _square(F.pad(inside, beyond), uneven)


def _square(image: Tensor, value: float) -> Tensor:
    """[C, H, W] with the shorter side padded on both ends, by one more at the second where the sum is odd."""
    height, width = image.shape[1:]
    missing = abs(height - width)
    ends = (missing // 2, missing - missing // 2)
    return F.pad(image, (*ends, 0, 0) if height > width else (0, 0, *ends), value=value)


def normalise_points(points: Tensor, on_object: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pointmap relative to its object's place and the scene's extent (`ObjectCentricSSI`, use_scene_scale).

    Args:
        points: [3, H, W] float32, NaN where unknown.
        on_object: [H, W] bool.

    Returns:
        (points - shift) / scale [3, H, W], NaN in all coordinates where any is NaN or infinite; scale [3], the median
        over all pixels of the largest coordinate's distance from shift; shift [3], the median of the object's points.
        Without any finite coordinate on the object scale is 1 and shift 0.

    Raises:
        InputError: half of the known points, or more, are in one place.
    """
    flat = points.flatten(1)
    objects = flat[:, on_object.flatten()]
    if objects.isfinite().any():
        shift = objects.nanmedian(1).values
        scale = (flat - shift[:, None]).abs().amax(0).nanmedian().expand(3)
        if scale[0] == 0:
            raise InputError("the known points of the pointmap are in one place, which gives no scale: leave it out")
    else:
        log.warning("the pointmap has no finite point on the object: its pose is in arbitrary units")
        shift, scale = torch.zeros(3, device="cpu"), torch.ones(3, device="cpu")
    # Multiplied and added as stock's 4x4 matrix does, which spreads what is not finite to all coordinates.
    inverse = 1 / scale
    normal = flat * inverse[:, None] - (shift * inverse)[:, None]
    normal = normal.masked_fill(~flat.isfinite().all(0), torch.nan)
    return normal.view_as(points), scale, shift


def camera_points(points: Tensor) -> Tensor:
    """Points [H, W, 3] of a depth model (x right, y down) in PyTorch3D's camera frame, NaN where one is not finite."""
    turned = points * torch.tensor([-1.0, -1.0, 1.0], device=points.device)
    return turned.masked_fill(~points.isfinite().all(-1, keepdim=True), torch.nan)


def fit_points(points: Tensor, height: int, width: int) -> Tensor:
    """A given pointmap [h, w, 3] at the picture's size [H, W, 3], by the nearest point."""
    if points.shape[:2] == (height, width):
        return points
    return F.interpolate(points.permute(2, 0, 1)[None], (height, width), mode="nearest")[0].permute(1, 2, 0)
