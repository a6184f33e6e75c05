"""Charts of a mesh on a square (xatlas)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import ExportError
from fast_sam3d.outputs.packages import export_package

__all__ = ["Unwrapped", "unwrap"]

PADDING = 2
"""Texels between charts."""


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """A mesh cut along its seams.

    Args:
        source: [V] int64, the vertex of the mesh that each vertex repeats. faces: [F, 3] int64, in the mesh's order.
        uv: [V, 2] float32 in 0..1.
    """

    source: NDArray[np.int64]
    faces: NDArray[np.int64]
    uv: NDArray[np.float32]


def unwrap(vertices: NDArray[np.float32], faces: NDArray[np.integer], size: int) -> Unwrapped:
    """Cut a mesh into charts and pack them into one square.

    Args:
        vertices: [V, 3]. faces: [F, 3]. size: texels of the square's side.

    Raises:
        ExportError: the charts do not fit on one square, or xatlas is not installed.
    """
    xatlas = export_package("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    packing.resolution, packing.padding, packing.create_image = size, PADDING, False
    atlas.generate(charts, packing)
    source, cut, uv = atlas[0]
    if atlas.atlas_count != 1 or len(cut) != len(faces):
        raise ExportError(
            f"the charts of {len(faces)} faces do not fit on {size} x {size} texels: use a larger --texture"
        )
    # xatlas fits its own square to the charts, which may be a little larger or smaller than `size`.
    return Unwrapped(source.astype(np.int64), cut.astype(np.int64), np.clip(uv, 0.0, 1.0).astype(np.float32))
