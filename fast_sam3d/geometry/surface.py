"""Meshes with the colours that are written to files: per vertex, or in a texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Surface", "TexturedMesh"]


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """A mesh with colours of its vertices.

    Args:
        vertices: [V, 3] float32, canonical, +z up. faces: [F, 3] int32 or int64, outside counter-clockwise.
        rgb: [V, 3] uint8 sRGB.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.integer]
    rgb: NDArray[np.uint8]

    @property
    def srgb(self) -> NDArray[np.float64]:
        """[V, 3] float64 in 0..1, as screens take it."""
        return self.rgb / 255.0


@dataclass(frozen=True, slots=True, eq=False)
class TexturedMesh:
    """A mesh with a texture; vertices are repeated along the seams of its charts.

    Args:
        vertices: [V, 3] float32, canonical, +z up. faces: [F, 3] int32 or int64, outside counter-clockwise.
        uv: [V, 2] float32 in 0..1; (0, 0) is the outer corner of the texture's first texel, v goes down the rows.
        texture: [H, W, 3] uint8 sRGB.
        normals: [V, 3] float32, equal on both sides of a seam; zero at vertices without a face that has an area.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.integer]
    uv: NDArray[np.float32]
    texture: NDArray[np.uint8]
    normals: NDArray[np.float32]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """[V, 3] uint8 sRGB, the texels at the vertices."""
        height, width = self.texture.shape[:2]
        column, row = (np.clip(self.uv * (width, height), 0, (width - 1, height - 1))).astype(np.int64).T
        colours: NDArray[np.uint8] = self.texture[row, column]
        return colours

    @property
    def srgb(self) -> NDArray[np.float64]:
        """[V, 3] float64 in 0..1, the texels at the vertices."""
        return self.rgb / 255.0
