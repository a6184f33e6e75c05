"""Gaussian splats as 3DGS `.ply` files (layout: graphdeco-inria/gaussian-splatting, `save_ply`).

Files have the axes that viewers of such files expect, those of COLMAP: +x right, +y down, +z forward. A comment in the
header says from which frame they were turned; files without one are in the frame itself, as written before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import GLB_FROM_CAMERA, Y_UP_FROM_Z_UP
from fast_sam3d.outputs.files import atomic_write

__all__ = ["GLB_AXES", "PLY_FIELDS", "Frame", "load_gaussians_ply", "ply_content", "save_gaussians_ply"]

Frame = Literal["object", "camera"]
"""Of gaussians in memory: an object's own, +z up, or PyTorch3D's camera, +x left, +y up, +z forward."""
GLB_AXES: Mapping[str, NDArray[np.float64]] = {
    "object": Y_UP_FROM_Z_UP[:3, :3],
    "camera": GLB_FROM_CAMERA[:3, :3],
}
"""[3, 3] by frame, from its coordinates to those of .glb and .spz files: +x right, +y up, +z backward."""
PLY_AXES = {frame: np.diag([1.0, -1.0, -1.0]) @ axes for frame, axes in GLB_AXES.items()}
"""[3, 3] by frame, from its coordinates to those of .ply and .sog files: +x right, +y down, +z forward."""
_ABOUT = {"object": "x -z y of an object with +z up", "camera": "-x -y z of a camera with +x left, +y up"}

PLY_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
# Keep the logit of opacities 0 and 1, and the logarithm of scale 0, finite.
MIN_OPACITY = 1e-6
MIN_SCALE = 1e-10


def save_gaussians_ply(path: str | os.PathLike[str], gaussians: Any, frame: Frame = "object") -> None:
    """Write a standard 3DGS file: binary little-endian, float32, logit opacity, log scale, quaternion wxyz.

    Quaternions have length 1, except those of the published decoders, which the stock pipeline writes unnormalised
    (sam3d_objects/model/backbone/tdfy_dit/representations/gaussian/gaussian_model.py, `save_ply`).

    Args:
        gaussians: object with get_xyz [n, 3], get_scaling [n, 3], get_rotation [n, 4] wxyz, get_opacity [n, 1] in 0..1
            and _features_dc [n, 1, 3]; of the published decoders also _rotation [n, 4] and rots_bias [4].
        frame: of the coordinates, which are turned to those of viewers.

    Raises:
        ValueError: no gaussian, or `GaussianCloud.of` rejects the attributes.
    """
    header, table = _ply_parts(gaussians, PLY_AXES[frame], f"frame: {frame}, written as {_ABOUT[frame]}")
    with atomic_write(path) as file:
        file.write(header)
        file.write(table.data.cast("B"))


def ply_content(gaussians: Any, axes: NDArray[np.floating], comment: str = "") -> bytes:
    """The bytes of a 3DGS file.

    Args:
        gaussians: see `save_gaussians_ply`.
        axes: see `GaussianCloud.turned`.
        comment: a line of the header.
    """
    header, table = _ply_parts(gaussians, axes, comment)
    return header + table.tobytes()


def _ply_parts(gaussians: Any, axes: NDArray[np.floating], comment: str) -> tuple[bytes, NDArray[np.float32]]:
    """The header of a 3DGS file, and its rows."""
    cloud = GaussianCloud.of(gaussians)
    count = len(cloud.get_xyz)
    if count == 0:
        raise ValueError("there are no gaussians to write")
    if (bias := getattr(gaussians, "rots_bias", None)) is not None:
        cloud = replace(cloud, get_rotation=as_numpy(gaussians._rotation + bias))
    cloud = cloud.turned(axes)
    opacity = np.clip(cloud.get_opacity.astype(np.float64), MIN_OPACITY, 1.0 - MIN_OPACITY)
    table = np.zeros((count, len(PLY_FIELDS)), "<f4")  # normals, columns 3 to 5, are required and ignored by viewers
    table[:, 0:3], table[:, 6:9], table[:, 13:17] = cloud.get_xyz, cloud._features_dc[:, 0], cloud.get_rotation
    table[:, 9:10] = np.log(opacity / (1.0 - opacity))
    table[:, 10:13] = np.log(np.maximum(cloud.get_scaling.astype(np.float64), MIN_SCALE))
    header = ["ply", "format binary_little_endian 1.0", *([f"comment {comment}"] if comment else [])]
    header += [f"element vertex {count}", *(f"property float {name}" for name in PLY_FIELDS), "end_header", ""]
    return "\n".join(header).encode("ascii"), table


def load_gaussians_ply(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read a file written by `save_gaussians_ply`, turned to its frame again.

    Opacity and scale are activated again, quaternions normalised. Files without a frame in their header are not turned.

    Raises:
        ValueError: not a binary little-endian 3DGS file of degree 0, or truncated.
    """
    content = Path(path).read_bytes()
    head, mark, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    names = tuple(line.split()[-1] for line in lines if line.startswith("property float "))
    counts = [int(line.split()[-1]) for line in lines if line.startswith("element vertex ")]
    if not mark or lines[:2] != ["ply", "format binary_little_endian 1.0"] or names != PLY_FIELDS or len(counts) != 1:
        raise ValueError(f"{path} is not a binary little-endian 3DGS file with the fields {' '.join(PLY_FIELDS)}")
    if len(body) != counts[0] * len(PLY_FIELDS) * 4:
        raise ValueError(f"{path} is truncated: {len(body)} bytes of data for {counts[0]} gaussians")
    table = np.frombuffer(body, "<f4").reshape(counts[0], len(PLY_FIELDS)).astype(np.float32)
    rotation = table[:, 13:17]
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    is_unit = np.abs(length - 1) < 1e-5  # kept to the last bit
    cloud = GaussianCloud(
        get_xyz=table[:, 0:3].copy(),  # not a view, which would keep the table
        get_scaling=np.exp(table[:, 10:13]),
        get_rotation=np.where(is_unit, rotation, rotation / np.maximum(length, 1e-12)),
        get_opacity=1.0 / (1.0 + np.exp(-table[:, 9:10])),
        _features_dc=table[:, None, 6:9].copy(),
    )
    frames = [frame for frame in PLY_AXES if any(line.startswith(f"comment frame: {frame},") for line in lines)]
    return cloud.turned(PLY_AXES[frames[0]].T) if frames else cloud
