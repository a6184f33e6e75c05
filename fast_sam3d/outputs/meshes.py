"""Meshes as `.glb` files with colours (glTF 2.0: axes in section 3.4, linear COLOR_0 in 3.9.2), and their topology."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.poses import Y_UP_FROM_Z_UP
from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.geometry.triangles import signed_volume, vertex_normals
from fast_sam3d.outputs.gltf import GlbWriter, read_glb
from fast_sam3d.outputs.interrupts import interrupts_deferred

if TYPE_CHECKING:
    import trimesh
    from scipy.sparse import csr_array

__all__ = [
    "add_surface", "linear_from_srgb", "load_glb", "mesh_summary", "mesh_to_surface", "mesh_to_trimesh",
    "save_glb", "srgb_from_linear",
]  # fmt: skip


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


def mesh_to_surface(mesh_result: Any) -> Surface:
    """Convert a decoded mesh, or a trimesh with vertex colours, for files; see `mesh_to_trimesh`."""
    found: Any = mesh_result if hasattr(mesh_result, "visual") else mesh_to_trimesh(mesh_result)
    rgb = np.array(found.visual.vertex_colors[:, :3], np.uint8)
    return Surface(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.int64), rgb)


def mesh_summary(mesh: trimesh.Trimesh | Surface) -> dict[str, Any]:
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
    """Write a glTF binary with a matt material, +y up as glTF expects, with normals and a texture or vertex colours.

    A mesh with +z up is rotated by (x, y, z) -> (x, z, -y). glTF vertex colours are linear, so the sRGB colours are
    converted; otherwise viewers would show them washed out. They have 16 bits, so that dark ones stay apart.

    Args:
        mesh: a decoded mesh (a result's "mesh"[0]), a `TexturedMesh`, or a trimesh with sRGB colours or a texture; not
            modified.
        up: up axis of the mesh; with "y" (stock `glb` results) coordinates are not rotated.

    Raises:
        ValueError: empty mesh or unknown axis.
    """
    if up not in ("z", "y"):
        raise ValueError(f"up must be 'z' or 'y', got {up!r}")
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no faces to write")
    writer = GlbWriter()
    writer.add_node(add_surface(writer, mesh, name="object", turned=up == "z"), name="object")
    writer.save(path)


def add_surface(writer: GlbWriter, mesh: Any, *, name: str, turned: bool = True, lossless: bool = True) -> int:
    """Add a mesh with its material to a .glb; for the kinds of `mesh` see `save_glb`.

    Args:
        turned: from +z up to +y up.
        lossless: see `GlbWriter.add_material`.

    Returns:
        The index of the mesh, for `GlbWriter.add_node`.
    """
    surface = mesh if any(hasattr(mesh, name) for name in ("texture", "rgb", "visual")) else mesh_to_trimesh(mesh)
    uv, texture, rgba = _colours(surface)
    turn = Y_UP_FROM_Z_UP[:3, :3] if turned else np.eye(3)
    vertices, faces = np.asarray(surface.vertices, np.float64) @ turn.T, np.asarray(surface.faces)
    own = getattr(surface, "normals", None)
    normals = vertex_normals(vertices, faces) if own is None else np.asarray(own, np.float64) @ turn.T
    # Faces that cancel each other give a vertex no direction; the format wants unit vectors.
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 1.0, 0.0)
    attributes = {"POSITION": vertices.astype(np.float32), "NORMAL": normals.astype(np.float32)}
    if texture is None:
        attributes["COLOR_0"] = rgba
    else:
        attributes["TEXCOORD_0"] = uv
    return writer.add_mesh(attributes, faces, name=name, material=writer.add_material(texture, lossless=lossless))


def _colours(surface: Any) -> tuple[Any, Any, Any]:
    """(uv [V, 2] float32, texture [H, W, 3 or 4] uint8, None), or (None, None, linear rgba [V, 4] uint16)."""
    if hasattr(surface, "texture"):
        return np.asarray(surface.uv, np.float32), surface.texture, None
    visual: Any = getattr(surface, "visual", None)
    if visual is not None and visual.kind == "texture" and visual.uv is not None:
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None:  # trimesh's v goes up
            uv = np.asarray(visual.uv, np.float32) * (1, -1) + (0, 1)
            return uv.astype(np.float32), np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB")), None
    if visual is None:
        rgb = surface.rgb
    else:
        rgb = np.asarray((visual if hasattr(visual, "vertex_colors") else visual.to_color()).vertex_colors)[:, :3]
    rgba = np.full((len(rgb), 4), 65535, np.uint16)
    rgba[:, :3] = linear_from_srgb()[rgb]
    return None, None, rgba


def load_glb(path: str | os.PathLike[str]) -> Surface | TexturedMesh:
    """Read the mesh of a file written by `save_glb`, turned to +z up again; colours come back exactly.

    Raises:
        OSError: it cannot be read.
        ValueError: damaged, or without one mesh of coloured or textured triangles.
    """
    from PIL import Image

    file = read_glb(path)
    try:
        (primitive,) = file.primitives
        parts = {key: file.accessor(index) for key, index in primitive["attributes"].items()}
        vertices = (parts["POSITION"] @ Y_UP_FROM_Z_UP[:3, :3]).astype(np.float32)
        faces = file.accessor(primitive["indices"]).reshape(-1, 3).astype(np.int32)
        if faces.max() >= len(vertices):
            raise ValueError("a face names a vertex that is not there")
        if "TEXCOORD_0" not in parts:
            return Surface(vertices, faces, srgb_from_linear(parts["COLOR_0"][:, :3]))
        with Image.open(io.BytesIO(file.image(0))) as picture:
            texture = np.asarray(picture.convert("RGB"))
        normals = (parts["NORMAL"] @ Y_UP_FROM_Z_UP[:3, :3]).astype(np.float32)
        return TexturedMesh(vertices, faces, parts["TEXCOORD_0"], texture, normals)
    except (KeyError, IndexError, TypeError, StopIteration, ValueError, OSError) as error:
        raise ValueError(f"{path} holds no mesh with colours that can be read: {error}") from error


def linear_from_srgb() -> NDArray[np.uint16]:
    """[256] uint16 lookup table from sRGB to linear values of 0..65535 (IEC 61966-2-1)."""
    srgb = np.arange(256) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 65535.0).astype(np.uint16)


def srgb_from_linear(linear: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """uint8 sRGB of linear values, uint16 or (in older files) uint8; the inverse of `linear_from_srgb`."""
    values = linear / np.iinfo(linear.dtype).max
    srgb = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255.0).astype(np.uint8)
