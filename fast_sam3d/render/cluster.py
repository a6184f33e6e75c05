"""Detailed meshes reduced to one vertex per cell of a grid, for pictures whose pixels are no finer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["clustered"]


def clustered(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], cell: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keep the first vertex of each cell, and the faces whose corners lie in three cells.

    Args:
        vertices: [V, 3]. faces: [F, 3]. cell: side of the cells, in the units of the vertices.

    Returns:
        [v] indices of vertices, and [f, 3] faces that count these.

    Source: Rossignac and Borrel, Multi-resolution 3D approximations for rendering complex scenes, 1993.
    """
    low = vertices.min(axis=0)
    place = np.floor((vertices - low) / cell).astype(np.int64)
    sides = place.max(axis=0) + 1
    key = (place[:, 0] * sides[1] + place[:, 1]) * sides[2] + place[:, 2]
    _, first, cluster = np.unique(key, return_index=True, return_inverse=True)
    joined = cluster.reshape(-1)[faces]
    a, b, c = joined.T
    return first, joined[(a != b) & (b != c) & (c != a)]
