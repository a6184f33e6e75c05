"""Surfaces painted by dots, one per vertex or gaussian: quicker than triangles, for the frames of turntables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import transform_points
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.render.renderer import AMBIENT, DIFFUSE, LIGHT, face_and_vertex_normals
from fast_sam3d.render.sheet import PANEL, eight_bit
from fast_sam3d.render.splat import LARGEST_PX, draw_dots

__all__ = ["Surfels", "draw_surfels", "surfels_of_gaussians", "surfels_of_mesh"]

SAMPLES = 2  # dots per pixel and axis
SOLID = 0.3  # opacity from which a gaussian is drawn


class Surfels(NamedTuple):
    """points [N, 3], sides [N], rgb [N, 3] in 0..1 and normals [N, 3] (0: unknown), float64, in one frame."""

    points: NDArray[np.float64]
    sides: NDArray[np.float64]
    rgb: NDArray[np.float64]
    normals: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Surfels]) -> Surfels:
        """All parts as one."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def leave_no_gaps(self, extent: float, pixels: int) -> bool:
        """Whether dots that span `extent` over `pixels` are small enough; those of a box with twelve triangles are not.

        Args:
            extent: of everything in view, in the units of the points.
        """
        largest = float(self.sides.max(initial=0.0))
        return largest * SAMPLES * pixels <= LARGEST_PX * max(extent, 1e-9)


def surfels_of_mesh(points: NDArray[np.float64], faces: NDArray[np.integer], rgb: NDArray[np.float64]) -> Surfels:
    """A dot per vertex [V, 3] of a mesh with rgb [V, 3] in 0..1."""
    corner = points[faces]
    # The longest edge of each triangle: dots of that side leave no gap.
    edge = np.linalg.norm(corner - corner[:, [1, 2, 0]], axis=2).max(axis=1)
    sides = np.full(len(points), np.quantile(edge, 0.9))
    return Surfels(points, sides, rgb, face_and_vertex_normals(points, faces)[1])


def surfels_of_gaussians(cloud: GaussianCloud, pose: NDArray[np.float64], scale: float) -> Surfels:
    """A dot per gaussian that is not faint, placed by a pose [4, 4] whose mean scale is given."""
    seen = cloud.get_opacity[:, 0] > SOLID
    points = transform_points(cloud.get_xyz[seen], pose)
    sides = 2.0 * scale * cloud.get_scaling[seen].mean(axis=1).astype(np.float64)
    return Surfels(points, sides, cloud.rgb[seen].astype(np.float64), np.zeros((len(points), 3)))


def draw_surfels(surfels: Surfels, camera: Camera, lit: bool = True) -> NDArray[np.uint8]:
    """The picture of a camera [H, W, 3], over `PANEL`; with `lit` shaded where normals are known."""
    points, sides, rgb, normals = surfels
    light = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
    fine = camera.resized(SAMPLES * max(camera.size))
    eye = -camera.rotation @ camera.translation
    # Back sides of closed surfaces are dropped; points with an unknown side are kept.
    shown = np.flatnonzero(np.einsum("nc,nc->n", normals, points - eye) <= 0)
    index = draw_dots(points[shown], sides[shown], fine).owner
    hit = index >= 0
    index[hit] = shown[index[hit]]
    pixels = np.broadcast_to(np.asarray(PANEL, np.float32) / 255, (*index.shape, 3)).copy()
    pixels[hit] = rgb[index[hit]]
    if lit:
        turned = normals[index[hit]] @ camera.rotation
        shade = np.where(turned.any(axis=1), AMBIENT + DIFFUSE * np.clip(turned @ light, 0, 1), 1.0)
        pixels[hit] *= shade[:, None].astype(np.float32)
    height, width = (side // SAMPLES for side in index.shape)
    samples = pixels[: height * SAMPLES, : width * SAMPLES]
    parts = [samples[i::SAMPLES, j::SAMPLES] for i in range(SAMPLES) for j in range(SAMPLES)]
    return eight_bit(sum(parts[1:], parts[0]) / len(parts))
