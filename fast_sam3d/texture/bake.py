"""A light mesh with a texture, from a detailed one with vertex colours or gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.geometry.triangles import vertex_normals
from fast_sam3d.texture.decimate import decimated, in_unit_cube
from fast_sam3d.texture.raster import covered_texels, fill_gaps
from fast_sam3d.texture.transfer import ColourSource, GaussianColours, MeshColours
from fast_sam3d.texture.unwrap import unwrap

__all__ = ["MAX_TEXTURE", "MIN_TEXTURE", "textured"]

MIN_TEXTURE, MAX_TEXTURE = 16, 8192


def textured(mesh: Surface, size: int = 1024, faces: int | None = 20_000, gaussians: Any = None) -> TexturedMesh:
    """Decimate a mesh, unwrap it, and bake the detailed colours into a texture.

    Args:
        mesh: detailed, see `fast_sam3d.outputs.meshes.mesh_to_surface`.
        size: texels of the texture's side.
        faces: about as many or fewer; None: as many as the mesh has.
        gaussians: take their colours instead of the vertices'.

    Raises:
        ExportError: numbers out of range, a mesh without a surface, charts that do not fit, or a missing package.
    """
    if not MIN_TEXTURE <= size <= MAX_TEXTURE:
        raise ExportError(f"a texture cannot have {size} texels: give {MIN_TEXTURE} to {MAX_TEXTURE}")
    in_unit_cube(mesh.vertices)  # raises
    source: ColourSource = MeshColours(mesh) if gaussians is None else GaussianColours(gaussians)
    light = mesh if faces is None else decimated(mesh, faces)
    cut = unwrap(in_unit_cube(light.vertices)[0], light.faces, size)
    vertices = light.vertices.astype(np.float64)
    normals = vertex_normals(vertices, light.faces)
    texels, owner, weights = covered_texels(cut.uv, cut.faces, size)
    if not len(texels):
        raise ExportError("the mesh has no surface that a texture could cover: write it without --texture")

    def inside(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of vertices at the texels."""
        corners = cut.source[cut.faces[owner]]
        mixed = sum(values[corners[:, i]] * weights[:, i, None] for i in range(3))
        return np.asarray(mixed)

    texture, covered = np.zeros((size * size, 3), np.uint8), np.zeros(size * size, bool)
    texture[texels] = np.round(source.colours_at(inside(vertices), inside(normals)))
    covered[texels] = True
    filled = fill_gaps(texture.reshape(size, size, 3), covered.reshape(size, size))
    repeated = cut.source
    return TexturedMesh(light.vertices[repeated], cut.faces, cut.uv, filled, normals[repeated].astype(np.float32))
