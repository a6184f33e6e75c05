"""Meshes as .obj (with colours, or a material and a texture) and .stl files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.poses import Y_UP_FROM_Z_UP
from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.geometry.triangles import vertex_normals
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.meshes import mesh_to_surface

__all__ = ["save_obj", "save_stl"]

_MATERIAL = """newmtl object
Ka 0 0 0
Kd 1 1 1
Ks 0 0 0
illum 1
map_Kd {texture}
"""


def save_obj(path: str | os.PathLike[str], mesh: Any) -> None:
    """Write a Wavefront .obj, +y up as its readers expect, with normals.

    Colours of vertices follow their coordinates, sRGB in 0..1, as MeshLab and Blender read them. A `TexturedMesh` has a
    .mtl and a .png of the same name beside it; its vertices are not repeated at seams, so that it is closed where the
    mesh is.

    Args:
        mesh: a `Surface` or `TexturedMesh`, or what `fast_sam3d.outputs.meshes.mesh_to_surface` takes.

    Raises:
        ExportError: a mesh without faces, or with vertices that are not finite.
    """
    surface, target = _checked(mesh), Path(path)
    turn = Y_UP_FROM_Z_UP[:3, :3].T
    faces, vertices = surface.faces + 1, surface.vertices.astype(np.float64)
    if isinstance(surface, TexturedMesh):
        whole, first, place = np.unique(surface.vertices, axis=0, return_index=True, return_inverse=True)
        joined = place.reshape(-1)[surface.faces] + 1
        corners = np.stack([joined, faces, joined], axis=2)
        words = [
            f"mtllib {target.stem}.mtl\n", _lines("v", whole @ turn, 6),
            _lines("vt", surface.uv * (1, -1) + (0, 1), 6), _lines("vn", surface.normals[first] @ turn, 4),
            "usemtl object\n", _lines("f", corners.reshape(-1, 9), None),
        ]  # fmt: skip
        _save_texture(target, surface.texture)
    else:
        coloured = np.concatenate([vertices @ turn, surface.srgb], axis=1)
        corners = np.repeat(faces, 2, axis=1)
        normals = vertex_normals(vertices, surface.faces) @ turn
        words = [_lines("v", coloured, 6), _lines("vn", normals, 4), _lines("f", corners, None)]
    with atomic_write(target) as file:
        for word in words:
            file.write(word.encode())


def save_stl(path: str | os.PathLike[str], mesh: Any) -> None:
    """Write a binary .stl, +z up as printers expect; the format holds no colours.

    Args, Raises:
        See `save_obj`.
    """
    surface = _checked(mesh)
    corners = surface.vertices[surface.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    table = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    table["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    table["corners"] = corners
    with atomic_write(path) as file:
        file.write(b"fast-sam3d, +z up".ljust(80) + np.uint32(len(table)).tobytes() + table.tobytes())


def _checked(mesh: Any) -> Surface | TexturedMesh:
    surface = mesh if isinstance(mesh, (Surface, TexturedMesh)) else mesh_to_surface(mesh)
    if len(surface.faces) == 0:
        raise ExportError("the mesh has no faces to write")
    if not np.isfinite(surface.vertices).all():
        raise ExportError("the mesh has vertices that are not finite, so it cannot be written")
    return surface


def _save_texture(path: Path, texture: NDArray[np.uint8]) -> None:
    from PIL import Image

    with atomic_write(path.with_suffix(".png")) as file:
        Image.fromarray(texture).save(file, "PNG")
    with atomic_write(path.with_suffix(".mtl")) as file:
        file.write(_MATERIAL.format(texture=path.with_suffix(".png").name).encode())


def _lines(word: str, values: NDArray[Any], digits: int | None) -> str:
    """One line for each row; of whole numbers three corners of equal parts, 1/1/1 or 1//1."""
    if digits is not None:
        pattern = " ".join([word, *[f"%.{digits}f"] * values.shape[1]])
    else:
        corner = "%d//%d" if values.shape[1] == 6 else "%d/%d/%d"
        pattern = f"{word} {corner} {corner} {corner}"
    return f"{pattern}\n" * len(values) % tuple(values.reshape(-1).tolist())
