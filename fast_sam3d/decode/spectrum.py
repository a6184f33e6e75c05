"""High-frequency energy ratio of an image or a shape. Pure functions.

Source: Fast-SAM3D (arXiv 2602.05293) section 3.4. The paper defines a ratio of squared magnitudes; its public release
sums magnitudes, and the published thresholds (0.5, 0.7) fit those, so magnitudes are summed here. Size, window and
radius are those of the release. The release reads the mask from its file, so that its ratio depends on the file
format; here the mask is read from memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 256  # pixels that a crop is resized to
MARGIN = 2  # pixels around the mask's box
PICTURE_CUTOFF = 38 / SIDE  # cycles per pixel; frequencies up to this are low
SHAPE_CUTOFF = 8 / 64  # cycles per voxel
SMALLEST = 1e-6  # of the largest value; smaller variations are rounding


def picture_ratio(rgb: Tensor, mask: Tensor) -> float | None:
    """High-frequency ratio of the masked object in an image.

    Args:
        rgb: [H, W, 3], 0..255 or 0..1, on the host: spectra are computed in float64.
        mask: [H, W], the object where above 0.

    Returns:
        0..1, or None where it is undefined: an empty mask or a plain colour.
    """
    inside = mask > 0
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if not len(rows):
        return None
    top, bottom = max(int(rows[0]) - MARGIN, 0), int(rows[-1]) + 1 + MARGIN
    left, right = max(int(columns[0]) - MARGIN, 0), int(columns[-1]) + 1 + MARGIN
    inside = inside[top:bottom, left:right]
    crop = rgb[top:bottom, left:right].float()
    # The colours outside would turn every outline into an edge.
    crop = torch.where(inside[..., None], crop, crop[inside].mean(0)).permute(2, 0, 1)[None]
    square = F.interpolate(crop, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)[0].mean(0)
    hann = torch.hann_window(SIDE, periodic=False, device=square.device)
    # The mean is subtracted, or the window's own low frequencies would dominate a faint pattern.
    return _ratio((square - square.mean()) * (hann[:, None] * hann), PICTURE_CUTOFF, float(square.abs().max()))


def shape_ratio(coords: Tensor, resolution: int) -> float | None:
    """High-frequency ratio of a shape's occupancy grid.

    Args:
        coords: [N, 3] int, its voxels, on the host. resolution: of the grid.

    Returns:
        0..1, or None for no voxel or a full grid.
    """
    grid = torch.zeros((resolution,) * 3, device=coords.device)
    x, y, z = coords.long().unbind(1)
    grid[x, y, z] = 1
    return _ratio(grid - grid.mean(), SHAPE_CUTOFF, 1.0)


def mixed(picture: float | None, shape: float | None, weight: float) -> float | None:
    """weight * picture + (1 - weight) * shape; the other one where one is None; None where both are."""
    if picture is None or shape is None:
        return shape if picture is None else picture
    return weight * picture + (1 - weight) * shape


def _ratio(values: Tensor, cutoff: float, largest: float) -> float | None:
    """Sum of magnitudes above `cutoff` cycles per sample over all but the mean's; None for constant values."""
    if not float(values.abs().max()) > SMALLEST * largest:
        return None
    magnitude = torch.fft.fftn(values.double()).abs()
    radius = torch.zeros((), dtype=torch.float64, device=values.device)
    for axis, n in enumerate(values.shape):
        frequency = torch.fft.fftfreq(n, dtype=torch.float64, device=values.device)
        radius = radius + frequency.square().reshape([-1 if a == axis else 1 for a in range(values.dim())])
    magnitude.view(-1)[0] = 0
    return float(magnitude[radius > cutoff**2].sum() / magnitude.sum())
