"""Focal length and distance of a pointmap that is known up to its scale and its shift along z.

As in moge/utils/geometry_torch.py and geometry_numpy.py (microsoft/MoGe): least squares on a sample of the points, on
the CPU. Lengths of the view plane are in units of half the picture's diagonal.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["camera_matrix", "recover_focal_shift", "view_plane"]

_SAMPLES: Final = (64, 64)


def view_plane(
    width: int, height: int, aspect: float, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Place (u to the right, v down) of the pixels' centres, [2, H, W]; aspect: width / height of the whole picture."""
    diagonal = (1 + aspect**2) ** 0.5
    ends = (aspect / diagonal * (width - 1) / width, 1 / diagonal * (height - 1) / height)
    u, v = (
        torch.linspace(-end, end, count, dtype=dtype, device=device)
        for end, count in zip(ends, (width, height), strict=True)
    )
    return torch.stack([u.expand(height, width), v[:, None].expand(height, width)])


def recover_focal_shift(points: Tensor, mask: Tensor) -> tuple[float, float]:
    """Focal length, and what is added to z so that points project to their pixels.

    Args:
        points: [H, W, 3], x to the right and y down.
        mask: [H, W] bool, the points that count. Points that are not finite, or have no depth, are left out too.

    Returns:
        Both; 1 and 0 where fewer than two sampled points are left, or where no camera sees them so.
    """
    height, width = mask.shape
    place = view_plane(width, height, width / height)
    rows, columns = (
        F.interpolate(torch.arange(float(size), device="cpu")[None, None], count, mode="nearest")[0, 0].long()
        for size, count in zip((height, width), _SAMPLES, strict=True)
    )
    there = points.device
    sample = points.detach()[rows.to(there)][:, columns.to(there)].float().cpu()
    kept = mask[rows.to(there)][:, columns.to(there)].cpu() & sample.isfinite().all(-1) & (sample[..., 2] != 0)
    xyz, uv = sample[kept].numpy(), place[:, rows][:, :, columns].permute(1, 2, 0)[kept].numpy()
    if len(xyz) < 2 or not xyz[:, :2].any():
        return 1.0, 0.0
    return _fit(uv, xyz)


def _fit(uv: NDArray[np.float32], xyz: NDArray[np.float32]) -> tuple[float, float]:
    """Focal length and shift that minimise |focal xy / (z + shift) - uv|, by Levenberg-Marquardt over the shift."""
    from scipy.optimize import least_squares

    def solved(shift: NDArray[np.floating]) -> tuple[np.floating, NDArray[np.floating]]:
        plane = xyz[:, :2] / (xyz[:, 2] + shift)[:, None]
        return (plane * uv).sum() / np.square(plane).sum(), plane

    def error(shift: NDArray[np.floating]) -> NDArray[np.floating]:
        focal, plane = solved(shift)
        return (focal * plane - uv).ravel()

    shift = least_squares(error, x0=0, ftol=1e-3, method="lm").x.squeeze().astype(np.float32)
    return float(solved(shift)[0]), float(shift)


def camera_matrix(focal: float, height: int, width: int) -> Tensor:
    """Intrinsics [3, 3] float32 in units of the picture's width and height, principal point in the centre."""
    diagonal = float(np.hypot(width, height))
    wide, high = focal / 2 * diagonal / width, focal / 2 * diagonal / height
    return torch.tensor([[wide, 0, 0.5], [0, high, 0.5], [0, 0, 1]], dtype=torch.float32, device="cpu")
