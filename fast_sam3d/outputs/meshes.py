"""Meshes as coloured `.glb` files (glTF 2.0: axes in section 3.6, linear COLOR_0 in 3.7.2.1), and their topology."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.interrupts import interrupts_deferred

if TYPE_CHECKING:
    import trimesh

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
    if _signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    with interrupts_deferred():  # trimesh's `except BaseException` clauses would swallow a Ctrl-C
        import trimesh

        mesh = trimesh.Trimesh(vertices=vertices, faces=faces, vertex_colors=rgba, process=False)
        mesh.remove_unreferenced_vertices()
    return mesh


def mesh_summary(mesh: trimesh.Trimesh) -> dict[str, Any]:
    """Topology of a mesh: is it closed, and in how many parts?

    Returns:
        vertices, faces, watertight (every edge has exactly two faces, which traverse it in opposite directions),
        boundary_loops (holes: connected groups of edges with one face; two holes that touch at a vertex count as one),
        components (connected through shared vertices), volume (signed, meaningful if watertight).
    """
    from trimesh.grouping import group_rows

    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": bool(mesh.is_watertight and mesh.is_winding_consistent),
        "boundary_loops": _edge_groups(mesh.edges[group_rows(mesh.edges_sorted, require_count=1)]),
        "components": _edge_groups(mesh.edges),
        "volume": float(mesh.volume),
    }


def _edge_groups(edges: np.ndarray) -> int:
    """Number of connected components of edges [E, 2]."""
    from trimesh.graph import connected_component_labels

    return len(np.unique(connected_component_labels(edges)[edges[:, 0]])) if len(edges) else 0


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume of tetrahedra from the centroid to each face; positive if faces are counter-clockwise from outside."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    corner = (vertices - vertices[used].mean(axis=0))[faces]
    return float(np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6.0)


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
        rotated = surface.copy()
        if up == "z":
            x, y, z = rotated.vertices.T
            rotated.vertices = np.stack([x, z, -y], axis=1)
        visual: Any = rotated.visual
        if visual.kind in ("vertex", "face"):
            rgba = np.array(visual.vertex_colors, np.uint8)
            rgba[:, :3] = linear_from_srgb()[rgba[:, :3]]
            visual.vertex_colors = rgba
        content: Any = rotated.export(file_type="glb", include_normals=True)
    with atomic_write(path) as file:
        file.write(content)


def linear_from_srgb() -> np.ndarray:
    """[256] uint8 lookup table from sRGB to linear values (IEC 61966-2-1)."""
    srgb = np.arange(256) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255.0).astype(np.uint8)
