"""Gaussian splats in small files: .spz and .sog through gaussforge, and .glb with KHR_gaussian_splatting.

Sources: Niantic Labs, spz (stored with +x right, +y up, +z backward); PlayCanvas, SOG (axes of .ply files); Khronos,
KHR_gaussian_splatting (ratified: linear scales, opacities of 0..1, quaternions xyzw, axes of glTF).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.gaussians import GLB_AXES, PLY_AXES, Frame, ply_content
from fast_sam3d.outputs.gltf import POINTS, GlbWriter
from fast_sam3d.outputs.meshes import linear_from_srgb
from fast_sam3d.outputs.packages import export_package

__all__ = ["EXTENSION", "save_splats"]

EXTENSION = "KHR_gaussian_splatting"
SPZ_LIMIT = 2048.0
"""Coordinates of .spz files have 24 bits, 12 of them behind the point."""


def save_splats(path: str | os.PathLike[str], gaussians: Any, frame: Frame = "object") -> None:
    """Write gaussians in the format that the name of the file ends with: .spz, .sog or .glb.

    Args:
        gaussians, frame: see `outputs.gaussians.save_gaussians_ply`.

    Raises:
        ExportError: the package for the format is missing, or the format cannot hold the gaussians.
        ValueError: no gaussian, or `GaussianCloud.of` rejects the attributes.
    """
    kind = Path(path).suffix[1:].lower()
    if kind == "glb":
        return _save_glb(path, gaussians, frame)
    cloud = GaussianCloud.of(gaussians)
    if kind == "spz" and not np.abs(cloud.get_xyz).max(initial=0.0) < SPZ_LIMIT:
        raise ExportError(f"{path} has no room for coordinates from {SPZ_LIMIT:g} up: choose .sog")
    # The package takes coordinates as they are.
    axes = (GLB_AXES if kind == "spz" else PLY_AXES)[frame]
    converter: Any = export_package("gaussforge").GaussForge()
    found = converter.convert(ply_content(cloud, axes), "ply", kind)
    if "error" in found:
        raise ExportError(f"{path} cannot be written: {found['error']}")
    with atomic_write(path) as file:
        file.write(found["data"])


def _save_glb(path: str | os.PathLike[str], gaussians: Any, frame: Frame) -> None:
    cloud = GaussianCloud.of(gaussians).turned(GLB_AXES[frame])
    if len(cloud.get_xyz) == 0:
        raise ValueError("there are no gaussians to write")
    opacity = np.clip(cloud.get_opacity[:, 0], 0.0, 1.0)
    # For viewers that draw points only.
    colour = linear_from_srgb()[np.round(cloud.rgb * 255.0).astype(np.uint8)]
    alpha = np.round(opacity[:, None] * 65535.0).astype(np.uint16)
    writer = GlbWriter()
    mesh = writer.add_mesh(
        {
            "POSITION": cloud.get_xyz,
            "COLOR_0": np.concatenate([colour, alpha], axis=1),
            f"{EXTENSION}:ROTATION": cloud.get_rotation[:, [1, 2, 3, 0]],
            f"{EXTENSION}:SCALE": cloud.get_scaling,
            f"{EXTENSION}:OPACITY": opacity,
            f"{EXTENSION}:SH_DEGREE_0_COEF_0": cloud._features_dc[:, 0],
        },
        name="gaussians",
        mode=POINTS,
        extensions={
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        },
    )
    writer.add_node(mesh, name="gaussians")
    writer.save(path)
