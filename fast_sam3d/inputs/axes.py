"""Axes of a camera's frame: recognised from a pointmap, and converted to PyTorch3D's (+x left, +y up, +z forward)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIGNS", "Seen", "seen_axes"]

SIGNS: dict[str, tuple[int, int, int]] = {"pytorch3d": (1, 1, 1), "opencv": (-1, -1, 1), "opengl": (-1, 1, -1)}
"""Factors of x, y and z that convert to PyTorch3D's frame."""
MOST_BEHIND = 0.1
"""Share of the points that noise may put on the other side of the camera."""
LEAST_POINTS = 16
"""Known points with fewer than this many samples say nothing about their axes."""


class Seen(NamedTuple):
    """How the coordinates of a pointmap run over the picture.

    Args:
        x: -1, it falls from left to right as in PyTorch3D's frame; +1, it grows; 0, neither.
        y: -1, it falls from top to bottom; +1, it grows; 0, neither.
        z: 1, positive for most points; -1, negative.
        turned: x follows the rows and y the columns, as in a picture turned by 90 degrees.
        around: points lie before the camera and behind it, so that z is no depth, as in a frame of the world.
    """

    x: int
    y: int
    z: int
    turned: bool = False
    around: bool = False

    @property
    def possible(self) -> list[str]:
        """Names of the conventions that it can be; several where x or y is 0."""
        names = []
        for name, (x, y, z) in SIGNS.items():
            if z == self.z and self.x in (0, -x) and self.y in (0, -y):
                names.append(name)
        return [] if self.turned or self.around else names

    def __str__(self) -> str:
        if self.around:
            return "z on both sides of the camera"
        if self.turned:
            return "x along the rows and y along the columns"
        x = {-1: "+x left", 1: "+x right", 0: "x unclear"}[self.x]
        y = {-1: "+y up", 1: "+y down", 0: "y unclear"}[self.y]
        return f"{x}, {y}, +z {'forward' if self.z > 0 else 'backward'}"


def seen_axes(points: NDArray[np.float32], known: NDArray[np.bool_]) -> Seen | None:
    """The axes of a pointmap.

    In a pinhole camera x/z is linear in the column and y/z in the row; their slopes are fitted, so that depth and the
    place of the known points make no difference.

    Args:
        points: [H, W, 3], a regular sample of the pixels. known: [H, W].

    Returns:
        None where too few points are known.
    """
    rows, columns = np.nonzero(known)
    there = points[rows, columns].astype(np.float64)
    there = there[usable := there[:, 2] != 0]
    if len(there) < LEAST_POINTS:
        return None
    place = np.stack([columns[usable], rows[usable]], 1).astype(np.float64)
    place -= place.mean(0)
    slope = there[:, :2] / np.abs(there[:, 2:])
    # Noise at nearly zero depth must not decide.
    low, high = np.quantile(slope, [0.005, 0.995], axis=0)
    slope = slope.clip(low, high) - slope.mean(0)
    fitted = np.linalg.lstsq(place, slope, rcond=None)[0]  # [column or row, x or y]
    rest = (slope - place @ fitted).std(0)
    share = fitted * place.std(0)[:, None]
    turned = bool((np.abs(share[[1, 0], [0, 1]]) > 2 * (np.abs(share[[0, 1], [0, 1]]) + rest)).all())
    x, y = (int(np.sign(own)) if abs(own) > spread else 0 for own, spread in zip(np.diag(share), rest, strict=True))
    z = 1 if np.median(there[:, 2]) > 0 else -1
    behind = there[there[:, 2] * z < 0, 2]  # one value there marks unknown points
    around = len(behind) > MOST_BEHIND * len(there) and np.ptp(behind) > 0.01 * np.abs(np.median(there[:, 2]))
    return Seen(x, y, z, turned, bool(around))
