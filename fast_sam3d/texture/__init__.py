"""Lighter meshes: fewer faces, unwrapped, with the colours of the detailed mesh or of gaussians in a texture."""

from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.texture.bake import textured
from fast_sam3d.texture.decimate import decimated

__all__ = ["Surface", "TexturedMesh", "decimated", "textured"]
