"""Volume overlap of two shapes: IoU of voxels and of solid meshes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.metrics.boxes import unit_box

RESOLUTION = 64
INSIDE = 1.0 - 1e-6  # a face exactly on the side of the box belongs to its last cell, not to the next


def voxel_iou(coords: Any, truth: Any) -> float:
    """|A and B| / |A or B| of two sets of integer voxels [N, C] and [M, C]; 1 where both are empty.

    Repeated rows count once. Either [N, 3] (x, y, z) or [N, 4] (batch, x, y, z), the same in both.
    """
    first, second = (np.unique(as_numpy(item, np.int64), axis=0) for item in (coords, truth))
    if first.ndim != 2 or first.shape[1:] != second.shape[1:]:
        raise ValueError(f"voxel sets of different shape: {first.shape} and {second.shape}")
    union = len(np.unique(np.concatenate([first, second]), axis=0))
    return (len(first) + len(second) - union) / union if union else 1.0


def volume_iou(
    mesh: Any, truth: Any, resolution: int = RESOLUTION, filled: bool = True, truth_cells: np.ndarray | None = None
) -> float:
    """vIoU: IoU of the occupied cells of two meshes, on `resolution`^3 cells over the ground truth's cube.

    The side of the cube is the longest side of the ground truth's box; what lies outside is counted on the same
    lattice. A cell is occupied where the surface passes through it and, if `filled`, inside a closed surface.

    Args:
        mesh, truth: objects with vertices [V, 3] and faces [F, 3] in one frame. A mesh that is None or has no faces
            scores 0.
        truth_cells: result of `cells` for the ground truth with the same settings, if already computed.

    Raises:
        ValueError: a resolution below 1, or a ground truth without extent.
    """
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    normalise = unit_box(truth.vertices)
    if mesh is None or len(mesh.faces) == 0:
        return 0.0
    if truth_cells is None:
        truth_cells = cells(truth, normalise(truth.vertices), resolution, filled)
    return voxel_iou(cells(mesh, normalise(mesh.vertices), resolution, filled), truth_cells)


def cells(mesh: Any, vertices: np.ndarray, resolution: int, filled: bool) -> np.ndarray:
    """[K, 3] int64 occupied cells of a mesh with vertices [V, 3] normalised to about [-0.5, 0.5]^3."""
    import trimesh
    from trimesh.voxel.creation import voxelize

    # trimesh's cells have their centres at whole numbers.
    points = (vertices * INSIDE + 0.5) * resolution - 0.5
    grid = voxelize(trimesh.Trimesh(points, as_numpy(mesh.faces, np.int64), process=False), pitch=1.0)
    if grid is None:
        return np.zeros((0, 3), np.int64)
    if filled:
        grid = grid.fill(method="holes")
    return np.round(np.asarray(grid.points)).astype(np.int64)
