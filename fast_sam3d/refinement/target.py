"""Target of the pose refinement: the mask and the visible points, in a window around the mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from fast_sam3d.geometry.camera import Camera

__all__ = ["LayoutTarget"]

REACH = 0.45
"""Margin of the window around the mask's box, as a share of the box's longer side."""

BAND_PX = 2.3
"""Width of the band outside of the mask in which occluders are detected; the nearest pixels may mix both surfaces."""

LEAST_SAMPLED = 0.5
"""Share of the mask's area that point samples must represent; those of masks without thin parts represent all of it."""

JUMP = 0.05
"""Share of the object's diameter by which a surface must be nearer than the object to occlude it."""


@dataclass(frozen=True, eq=False)
class LayoutTarget:
    """A mask and its pointmap, resampled to a small window around the mask.

    Args:
        camera: of the window: at the origin, h x w pixels.
        mask: [h, w] bool, the object's visible pixels.
        points: [h, w, 3] float64, camera frame; NaN where unknown or outside of the picture, or if guessed.
        open: [h, w] bool, outside of the mask: the object may extend here, behind an occluder or beyond the picture.
        behind: [h, w] bool, inside the mask: the nearest outline belongs to an occluder.
    """

    camera: Camera
    mask: NDArray[np.bool_]
    points: NDArray[np.float64]
    open: NDArray[np.bool_]
    behind: NDArray[np.bool_]

    @classmethod
    def around(
        cls, mask: NDArray[np.bool_], points: NDArray[np.floating] | None, camera: Camera, span: int, diameter: float
    ) -> LayoutTarget:
        """Point samples in a window in which the longer side of the mask's box has `span` pixels.

        Of a mask that samples miss, such as a thin outline, every pixel counts: those of the window that hold one.

        Where the mask ends at a surface that is nearer than the object in the pointmap, or at the picture's border, the
        object may continue. A floor is no occluder: where the object touches it both have the same depth.

        Args:
            mask: [H, W], not empty.
            points: [H, W, 3], NaN where unknown; None if they are a guess.
            camera: of the picture, at the origin.
            diameter: of the object, units of the points.
        """
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        top, left, tall, wide = rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        step = max(tall, wide) / span
        border = round(span * REACH)
        height, width = (int(np.ceil(side / step)) + 2 * border for side in (tall, wide))
        corner = left + (wide - width * step) / 2, top + (tall - height * step) / 2
        u, v = (camera.principal[k] - corner[k] for k in (0, 1))
        window = Camera(camera.rotation, camera.translation, camera.focal / step, (u / step, v / step), (height, width))

        column, row = (
            np.floor(start + (np.arange(count) + 0.5) * step).astype(int)
            for start, count in zip(corner, (width, height), strict=True)
        )
        inside = ((row >= 0) & (row < mask.shape[0]))[:, None] & ((column >= 0) & (column < mask.shape[1]))[None]
        at = np.ix_(row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1))
        small = mask[at] & inside
        seen = np.full((height, width, 3), np.nan)
        if points is not None:
            seen[inside] = points[at][inside]
        if small.sum() * step**2 < LEAST_SAMPLED * mask.sum():
            rows, columns = mask.nonzero()
            held = tuple(
                ((line + 0.5 - start) / step).astype(int) for line, start in ((rows, corner[1]), (columns, corner[0]))
            )
            small[held] = True
            if points is not None:
                seen[held] = points[rows, columns]

        off, nearest = distance_transform_edt(~small, return_indices=True)
        edge = nearest[0] * width + nearest[1]  # the nearest pixel of the mask
        with np.errstate(invalid="ignore"):
            nearer = seen[..., 2] < seen[..., 2][tuple(nearest)] - JUMP * diameter
        nearer |= ~inside
        band = (off > 0) & (off <= BAND_PX)
        count = np.bincount(edge[band], minlength=edge.size)
        hidden = np.bincount(edge[band & nearer], minlength=edge.size) > 0.5 * count
        outline = small & ~binary_erosion(small)
        inner = distance_transform_edt(~outline, return_distances=False, return_indices=True)
        return cls(
            window, small, seen, ~small & nearer & hidden[edge], small & hidden[inner[0] * width + inner[1]]
        )  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.camera.size

    @cached_property
    def distance(self) -> NDArray[np.float64]:
        """[h, w] signed distance to the mask's outline in pixels, > 0 outside."""
        outside, inside = distance_transform_edt(~self.mask), distance_transform_edt(self.mask)
        signed: NDArray[np.float64] = np.where(self.mask, 0.5 - inside, outside - 0.5)
        return signed

    @cached_property
    def outline_length(self) -> int:
        """Number of mask pixels with a neighbour outside."""
        return int((self.mask & ~binary_erosion(self.mask)).sum())

    def surface(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """At most `count` evenly spaced points [Q, 3] of the visible surface, and their unit normals [Q, 3]."""
        right, down = np.full_like(self.points, np.nan), np.full_like(self.points, np.nan)
        right[:, 1:-1] = self.points[:, 2:] - self.points[:, :-2]
        down[1:-1] = self.points[2:] - self.points[:-2]
        normals = np.cross(right, down)
        length = np.linalg.norm(normals, axis=-1)
        # Without the outermost pixels, whose neighbours belong to other surfaces.
        known = binary_erosion(self.mask) & (length > 0) & np.isfinite(self.points).all(-1)
        chosen = np.flatnonzero(known)
        if len(chosen) > count:
            chosen = chosen[np.linspace(0, len(chosen) - 1, count).astype(int)]
        return self.points.reshape(-1, 3)[chosen], (normals / length.clip(1e-30)[..., None]).reshape(-1, 3)[chosen]

    def overlap(self, seen: NDArray[np.bool_]) -> float:
        """Intersection over union, 0..1, of a drawn silhouette [h, w] with the mask, outside of `open`."""
        drawn = seen & ~self.open
        return float((drawn & self.mask).sum() / max(int((drawn | self.mask).sum()), 1))
