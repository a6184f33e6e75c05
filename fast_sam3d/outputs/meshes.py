"""Meshes as coloured `.glb` files (glTF 2.0: axes in section 3.6, linear COLOR_0 in 3.7.2.1), and their topology."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.triangles import signed_volume, vertex_normals
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.interrupts import interrupts_deferred

if TYPE_CHECKING:
    import trimesh
    from scipy.sparse import csr_array

__all__ = ["linear_from_srgb", "mesh_summary", "mesh_to_trimesh", "save_glb"]


def mesh_to_trimesh(mesh_result: Any) -> trimesh.Trimesh:
    """Convert a decoded mesh to a trimesh: canonical frame (+z up), uint8 vertex colours, outward normals.

    Args:
        mesh_result: object with vertices [V, 3], faces [F, 3] and optionally vertex_attrs [V, >=3] whose first three
            channels are rgb in 0..1; grey without them. Other channels are ignored: normals follow from the faces.

    Raises:
        ValueError: the decoder found no surface.
    """
    vertices = as_numpy(mesh_result.vertices, np.float64).reshape(-1, 3)
    faces = as_numpy(mesh_result.faces, np.int64).reshape(-1, 3)
    if len(faces) == 0 or not getattr(mesh_result, "success", True):
        raise ValueError("the decoded mesh is empty: no surface was found")
    attributes = getattr(mesh_result, "vertex_attrs", None)
    rgb = np.full((len(vertices), 3), 0.7) if attributes is None else as_numpy(attributes)[:, :3]
    rgba = np.full((len(vertices), 4), 255, np.uint8)
    rgba[:, :3] = np.round(np.clip(np.nan_to_num(rgb), 0.0, 1.0) * 255.0)
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    if not used.all():
        vertices, rgba, faces = vertices[used], rgba[used], (np.cumsum(used) - 1)[faces]
    if signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    with interrupts_deferred():  # trimesh's `except BaseException` clauses would swallow a Ctrl-C
        import trimesh

        return trimesh.Trimesh(vertices=vertices, faces=faces, vertex_colors=rgba, process=False)


def mesh_summary(mesh: trimesh.Trimesh) -> dict[str, Any]:
    """Topology of a mesh: is it closed, and in how many parts?

    Returns:
        vertices, faces, watertight (every edge has exactly two faces, which traverse it in opposite directions),
        boundary_loops (holes: connected groups of edges with one face; two holes that touch at a vertex count as one),
        components (connected through shared vertices), volume (signed, meaningful if watertight).
    """
    from scipy.sparse.csgraph import connected_components

    faces, count = np.asarray(mesh.faces, np.int32), len(mesh.vertices)
    ends = faces.T.reshape(-1), faces[:, [1, 2, 0]].T.reshape(-1)
    upward = ends[0] <= ends[1]
    up, down = _edges(ends[0][upward], ends[1][upward], count), _edges(ends[1][~upward], ends[0][~upward], count)
    edges = up + down  # faces of each edge
    boundary = edges.copy()
    boundary.data[edges.data != 1] = 0
    boundary.eliminate_zeros()
    touched = np.unique(boundary.nonzero())
    holes = connected_components(boundary, directed=False)[1][touched]
    parts = connected_components(edges, directed=False)[1][faces[:, 0]]
    return {
        "vertices": count,
        "faces": len(faces),
        "watertight": bool((edges.data == 2).all() and (up.data == 1).all()),
        "boundary_loops": len(np.unique(holes)),
        "components": len(np.unique(parts)),
        "volume": signed_volume(np.asarray(mesh.vertices), faces),
    }


def _edges(low: np.ndarray, high: np.ndarray, vertices: int) -> csr_array:
    """[V, V] how often each edge (low, high) is there."""
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(low), np.int32), (low, high)), shape=(vertices, vertices)).tocsr()


def save_glb(path: str | os.PathLike[str], mesh: Any, up: Literal["z", "y"] = "z") -> None:
    """Write a coloured glTF binary, +y up as glTF expects, with vertex normals and linear vertex colours.

    A mesh with +z up is rotated by (x, y, z) -> (x, z, -y). glTF vertex colours are linear, so the sRGB colours are
    converted; otherwise viewers would show them washed out.

    Args:
        mesh: a decoded mesh (a result's "mesh"[0]), or a trimesh with uint8 sRGB vertex colours; not modified.
        up: up axis of the mesh; with "y" (stock `glb` results) coordinates are not rotated.

    Raises:
        ValueError: empty mesh or unknown axis.
    """
    if up not in ("z", "y"):
        raise ValueError(f"up must be 'z' or 'y', got {up!r}")
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no faces to write")
    surface = mesh if hasattr(mesh, "visual") else mesh_to_trimesh(mesh)
    with interrupts_deferred():
        import trimesh

        vertices, faces = np.asarray(surface.vertices), np.asarray(surface.faces)
        if up == "z":
            vertices = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1)
        visual: Any = surface.visual
        if visual.kind in ("vertex", "face"):
            rgba = np.array(visual.vertex_colors, np.uint8)
            rgba[:, :3] = linear_from_srgb()[rgba[:, :3]]
            # Not `surface.copy()`: it derives colours of faces, which takes a third of the time of the export.
            rotated: Any = trimesh.Trimesh(
                vertices, faces, vertex_colors=rgba, vertex_attributes=surface.vertex_attributes,
                metadata=surface.metadata, process=False,
            )  # fmt: skip
        else:
            rotated = surface.copy()
            rotated.vertices = vertices
        rotated.vertex_normals = vertex_normals(vertices, faces)
        content: Any = rotated.export(file_type="glb", include_normals=True)
    with atomic_write(path) as file:
        file.write(content)


def linear_from_srgb() -> np.ndarray:
    """[256] uint8 lookup table from sRGB to linear values (IEC 61966-2-1)."""
    srgb = np.arange(256) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255.0).astype(np.uint8)
