"""Meshes with fewer faces (quadric edge collapse of fast-simplification)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.surface import Surface
from fast_sam3d.geometry.triangles import vertex_normals
from fast_sam3d.outputs.meshes import mesh_summary
from fast_sam3d.outputs.packages import export_package
from fast_sam3d.texture.transfer import MeshColours

__all__ = ["decimated", "in_unit_cube"]

MIN_FACES = 4
AGGRESSIVENESS = (7, 5, 3)
"""Of the collapse, tried in order until a closed mesh stays closed; less takes longer."""


def decimated(mesh: Surface, faces: int) -> Surface:
    """A mesh with about `faces` faces or fewer, more where that would open it; the same mesh if it has no more.

    Closed meshes stay closed; with few faces parts of the surface may touch at an edge.

    Raises:
        ExportError: fewer than 4 faces asked for, a mesh that cannot be decimated, or the package is not installed.
    """
    if faces < MIN_FACES:
        raise ExportError(f"a mesh cannot be reduced to {faces} faces: give at least {MIN_FACES}")
    package = export_package("fast_simplification")
    unit, middle, extent = in_unit_cube(mesh.vertices)
    if len(mesh.faces) <= faces:
        return mesh
    closed = mesh_summary(mesh)["watertight"]
    touching: Surface | None = None  # without a hole, but with edges of four faces
    for aggressiveness in AGGRESSIVENESS:
        points, kept = package.simplify(unit, mesh.faces.astype(np.int32), target_count=faces, agg=aggressiveness)
        vertices = (points.astype(np.float64) * extent + middle).astype(np.float32)
        smaller = Surface(vertices, np.asarray(kept, np.int64), np.empty((0, 3), np.uint8))
        found = mesh_summary(smaller) if closed and len(kept) else None
        if len(kept) and (found is None or found["watertight"]):
            return _coloured(smaller, mesh)
        if found is not None and not found["boundary_loops"]:
            touching = touching or smaller
    if touching is not None:
        return _coloured(touching, mesh)
    raise ExportError(f"the mesh cannot be reduced to {faces} faces without opening it: ask for more --faces")


def in_unit_cube(vertices: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Vertices [V, 3] for packages whose thresholds are absolute, and the middle and extent that were taken out.

    Raises:
        ExportError: no vertices, or not finite.
    """
    if not len(vertices) or not np.isfinite(vertices).all():
        raise ExportError("the mesh has no vertices, or some that are not finite: another --seed may help")
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    extent = float((high - low).max()) or 1.0
    middle = (low + high) / 2
    return ((vertices - middle) / extent).astype(np.float32), middle, extent


def _coloured(smaller: Surface, mesh: Surface) -> Surface:
    normals = vertex_normals(smaller.vertices.astype(np.float64), smaller.faces)
    rgb = np.round(MeshColours(mesh).colours_at(smaller.vertices, normals)).astype(np.uint8)
    return Surface(smaller.vertices, smaller.faces, rgb)
