"""Square crop of a picture, mask and pointmap, which the condition embedder takes.

Image coordinates (u, v) are in units of the longer image side, origin in the image centre, u to the right, v down. The
training crops are cut by the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from fast_sam3d.errors import InputError
from fast_sam3d.model.pose import normalise_pointmap

CROP_PADDING = 0.10
"""Share of the longer box side that is added on each side of a crop."""

MIN_MASK_PIXELS = 24
"""Minimum of object pixels in a training crop; below it, thin parts are widened to stay visible in the crop."""

MAX_SUBSAMPLES = 12
"""Maximum of samples along each side of a crop's pixel when colours are averaged."""


def crop_box(silhouette: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [2] and side of the padded square around visible points [P, 2]."""
    low, high = silhouette.min(0), silhouette.max(0)
    return (low + high) / 2, float((high - low).max()) * (1 + 2 * CROP_PADDING)


def crop_grid(centre: np.ndarray, side: float, pixels: int) -> np.ndarray:
    """Image coordinates [pixels * pixels, 2] of a square crop, row by row."""
    line = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels - 0.5
    v, u = np.meshgrid(line, line, indexing="ij")
    return (np.stack([u, v], -1).reshape(-1, 2) * side + centre).astype(np.float32)


def describe(
    centre: np.ndarray, side: float, mask_share: float, focal: float, known: bool, scale: float, depth: float
) -> np.ndarray:
    """Descriptor [8] of a crop: its place in the picture, and how its pointmap was normalised.

    Args:
        centre: [2], of the box, in units of half the longer image side.
        side: of the box, in units of the longer image side.
        mask_share: share of the crop's pixels that the mask covers.
        focal: focal length in units of the longer image side, 0 if unknown.
        known: whether depth was given.
        scale: scene_scale, metres.
        depth: z of scene_shift, metres.
    """
    half_over_focal = 0.5 / focal if focal else 0.0
    return np.array(
        [*centre, side, mask_share, half_over_focal, float(known), np.log(scale), np.log(depth / scale)], np.float32
    )


@dataclass(frozen=True, eq=False)
class ConditionCrop:
    """One crop as the embedder takes it. Tensors are float32 on the CPU.

    Args:
        image: [3, S, S] in 0..1.
        mask: [1, S, S], 0 or 1.
        pointmap: [3, S, S] normalised, 0 where unknown.
        descriptor: [8], see `describe`.
        scene_scale: 0-dim, metres.
        scene_shift: [3], metres.
    """

    image: Tensor
    mask: Tensor
    pointmap: Tensor
    descriptor: Tensor
    scene_scale: Tensor
    scene_shift: Tensor


def crop_condition(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    pointmap: Tensor | NDArray[np.float32],
    out: int = 64,
    guessed: bool = False,
) -> ConditionCrop:
    """Crop the object as the training crops are rendered: one ray per pixel, binary mask, padded square.

    Masks and points are point-sampled. A pixel's colour is the mean over the part of its footprint that has its mask
    value, so that outlines are not blended with the background, as in the training crops.

    Args:
        rgb: [H, W, 3] uint8.
        mask: [H, W] bool, the object's visible pixels.
        pointmap: [H, W, 3] metres, PyTorch3D camera frame; non-finite entries are unknown.
        out: S, pixels.
        guessed: the pointmap comes from the silhouette, so its focal length is meaningless.

    Raises:
        InputError: an empty mask, different sizes, or no known point on the object.
    """
    height, width = mask.shape
    if rgb.shape != (height, width, 3) or tuple(pointmap.shape) != (height, width, 3):
        raise InputError(
            f"picture {list(rgb.shape)}, mask {list(mask.shape)} and pointmap {list(pointmap.shape)} differ in size:"
            " create them from the same picture"
        )
    if not mask.any():
        raise InputError("the mask is empty: mark the object in it")
    longer = max(height, width)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    # Corners of the mask's outermost pixels.
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]], np.float32)
    centre, side = crop_box((corners - (width / 2, height / 2)) / longer)

    def pixel_lines(samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Columns and rows of the picture at a square grid of samples, also outside of the picture."""
        grid = crop_grid(centre, side, samples).reshape(samples, samples, 2)
        u, v = grid[0, :, 0], grid[:, 0, 1]
        return (np.floor(u * longer + width / 2).astype(int), np.floor(v * longer + height / 2).astype(int))

    c, r = pixel_lines(out)
    inside = ((r >= 0) & (r < height))[:, None] & ((c >= 0) & (c < width))[None]
    row_of, column_of = (
        np.ascontiguousarray(a) for a in np.broadcast_arrays(r.clip(0, height - 1)[:, None], c.clip(0, width - 1)[None])
    )
    crop_mask = mask[row_of, column_of] & inside
    if crop_mask.sum() < MIN_MASK_PIXELS:
        reach = side * longer / out / 2**0.5
        snapped = _snap_to_mask(mask, row_of, column_of, reach)
        crop_mask, inside = crop_mask | snapped, inside | snapped
    points = torch.as_tensor(pointmap, device="cpu")[torch.from_numpy(row_of), torch.from_numpy(column_of)].float()
    points[~torch.from_numpy(inside)] = torch.nan
    try:
        normal, scale, shift = normalise_pointmap(points, torch.from_numpy(crop_mask))
    except ValueError as error:
        if torch.isfinite(torch.as_tensor(pointmap, device="cpu")[torch.from_numpy(mask)]).all(-1).any():
            raise InputError(
                f"the pointmap has too few points on the object, none at the {out} x {out} samples:"
                " give another pointmap or none"
            ) from error
        raise InputError(str(error)) from error

    colour = _mean_colour(rgb, mask, crop_mask, row_of, column_of, pixel_lines, side * longer / out)
    focal = 0.0 if guessed else infer_focal(pointmap)
    # Clamped for the logarithm; a point behind the camera is out of distribution anyway.
    depth = max(float(shift[2]), 1e-3 * float(scale))
    descriptor = describe(centre * 2, side, float(crop_mask.mean()), focal, not guessed, float(scale), depth)
    return ConditionCrop(
        image=torch.from_numpy(colour).permute(2, 0, 1).contiguous(),
        mask=torch.from_numpy(crop_mask)[None].float(),
        pointmap=normal.permute(2, 0, 1).contiguous(),
        descriptor=torch.from_numpy(descriptor),
        scene_scale=scale,
        scene_shift=shift,
    )


def infer_focal(pointmap: Tensor | NDArray[np.float32]) -> float:
    """Focal length of a pointmap [H, W, 3] in units of its longer side, principal point in the centre; 0 if unclear."""
    height, width = pointmap.shape[:2]
    longer = max(height, width)
    step = max(longer // 256, 1)  # a sparse grid of pixels suffices
    points = torch.as_tensor(pointmap, device="cpu")[::step, ::step].double()
    v, u = torch.meshgrid(
        (torch.arange(0, height, step, dtype=torch.float64, device="cpu") + 0.5 - height / 2) / longer,
        (torch.arange(0, width, step, dtype=torch.float64, device="cpu") + 0.5 - width / 2) / longer,
        indexing="ij",
    )
    good = torch.isfinite(points).all(-1) & (points[..., 2] > 0)
    slope = -points[good][:, :2] / points[good][:, 2:]
    pixel = torch.stack([u[good], v[good]], -1)
    square = slope.square().sum()
    focal = float((pixel * slope).sum() / square) if square > 0 else 0.0
    return focal if 0.1 < focal < 20 else 0.0


def _snap_to_mask(
    mask: NDArray[np.bool_], row_of: NDArray[np.int64], column_of: NDArray[np.int64], reach: float
) -> NDArray[np.bool_]:
    """Move samples that miss the object by up to `reach` pixels onto it, in place; returns which ones are on it."""
    distance, (near_row, near_column) = distance_transform_edt(~mask, return_indices=True)
    hit = distance[row_of, column_of] <= reach
    nearest = near_row[row_of, column_of], near_column[row_of, column_of]
    row_of[hit], column_of[hit] = nearest[0][hit], nearest[1][hit]
    return hit


def _mean_colour(rgb, mask, crop_mask, row_of, column_of, pixel_lines, footprint) -> NDArray[np.float32]:
    """[S, S, 3] float32 in 0..1: mean colour of each crop pixel's footprint where the mask agrees with the pixel."""
    out = len(crop_mask)
    k = int(np.clip(np.ceil(footprint), 1, MAX_SUBSAMPLES))
    c, r = pixel_lines(out * k)
    height, width = mask.shape
    # Border colours are repeated outside of the picture.
    window = np.ix_(r.clip(0, height - 1), c.clip(0, width - 1))
    agrees = mask[window].reshape(out, k, out, k) == crop_mask[:, None, :, None]
    weight = agrees.astype(np.float32)
    total = weight.sum((1, 3))[..., None]
    samples = rgb[window].reshape(out, k, out, k, 3)
    mean = np.einsum("ikjlc,ikjl->ijc", samples.astype(np.float32), weight) / np.maximum(total, 1)
    return np.where(total > 0, mean, rgb[row_of, column_of]).astype(np.float32) / 255


@dataclass(frozen=True)
class CropPreprocessor:
    """`crop_condition` with a fixed crop size, in place of the stock pipeline's preprocessor.

    Args:
        size: of the crop in pixels.
    """

    size: int = 64

    def __call__(self, rgb, mask, pointmap, guessed: bool = False) -> ConditionCrop:
        """See `crop_condition`."""
        return crop_condition(rgb, mask, pointmap, self.size, guessed)
