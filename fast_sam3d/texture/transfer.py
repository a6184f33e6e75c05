"""Colours of surface points from a detailed mesh or from gaussians nearby."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import matrices_of_unit_quaternions
from fast_sam3d.geometry.surface import Surface

__all__ = ["ColourSource", "GaussianColours", "MeshColours"]

FACES, SPLATS = 4, 8
"""Nearest faces, and gaussians, that are asked for a point's colour."""
BLOCK = 1 << 16
"""Points at once; bounds the memory."""
MIN_OPACITY = 0.05
"""Of gaussians that have a say."""


class ColourSource(Protocol):
    """Something that knows the colour of points on or near a surface."""

    def colours_at(self, points: NDArray[np.floating], normals: NDArray[np.floating]) -> NDArray[np.float32]:
        """[M, 3] float32 in 0..255, of points [M, 3] with unit normals [M, 3]."""
        ...


class MeshColours:
    """The colours of a mesh's vertices, interpolated in the nearest face that looks the same way.

    Args:
        mesh: with small faces, as a decoder makes them: the nearest are found by their centres.

    Raises:
        ExportError: no face has an area.
    """

    def __init__(self, mesh: Surface) -> None:
        from scipy.spatial import cKDTree

        corners = mesh.vertices[mesh.faces].astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1)
        solid = length > 0
        if not solid.any():
            raise ExportError("the mesh has no face with an area, so there is nothing to decimate or to texture")
        self._corners, self._normals = corners[solid], normals[solid] / length[solid, None]
        self._rgb = mesh.rgb[mesh.faces[solid]].astype(np.float32)
        self._tree = cKDTree(self._corners.mean(axis=1))

    def colours_at(self, points: NDArray[np.floating], normals: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `ColourSource`."""
        colours = np.empty((len(points), 3), np.float32)
        for block, index in _nearest(self._tree, points, FACES):
            best, weights = np.full(len(index), np.inf), np.empty((len(index), 3))
            chosen = index[:, 0]
            for face in index.T:
                found, inside = _barycentric(points[block], self._corners[face])
                off = np.square(points[block] - found).sum(axis=1)
                off[np.einsum("nc,nc->n", self._normals[face], normals[block]) < 0] += 1e6  # the other side of a wall
                better = off < best
                best, chosen = np.where(better, off, best), np.where(better, face, chosen)
                weights[better] = inside[better]
            colours[block] = np.einsum("nkc,nk->nc", self._rgb[chosen], weights)
        return colours


class GaussianColours:
    """The colours of gaussians, weighted by opacity and density as a splat is.

    Args:
        gaussians: see `GaussianCloud.of`; those that are nearly transparent are left out.

    Raises:
        ExportError: all are transparent.
    """

    def __init__(self, gaussians: Any) -> None:
        from scipy.spatial import cKDTree

        cloud = GaussianCloud.of(gaussians)
        seen = cloud.get_opacity[:, 0] >= MIN_OPACITY
        if not seen.any():
            raise ExportError("all gaussians are transparent, so they have no colours to give to a texture")
        self._centres, self._rgb = cloud.get_xyz[seen], cloud.rgb[seen] * 255.0
        turns = matrices_of_unit_quaternions(cloud.get_rotation[seen])
        self._whiten = (turns / np.maximum(cloud.get_scaling[seen], 1e-9)[:, None, :]).astype(np.float32)
        self._opacity = cloud.get_opacity[seen, 0]
        self._tree = cKDTree(self._centres)

    def colours_at(self, points: NDArray[np.floating], normals: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `ColourSource`; the normals are not needed."""
        colours = np.empty((len(points), 3), np.float32)
        for block, index in _nearest(self._tree, points, SPLATS):
            away = np.einsum("nkc,nkcd->nkd", points[block, None] - self._centres[index], self._whiten[index])
            power = -0.5 * np.square(away).sum(axis=2) + np.log(self._opacity[index])
            weight = np.exp(power - power.max(axis=1, keepdims=True))
            colours[block] = np.einsum("nkc,nk->nc", self._rgb[index], weight / weight.sum(axis=1, keepdims=True))
        return colours


def _nearest(tree: Any, points: NDArray[np.floating], count: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Blocks of points [M, 3], each with the indices [n, k] of its `count` nearest in a tree, the nearest first."""
    ranks = np.arange(1, min(count, tree.n) + 1)
    for start in range(0, len(points), BLOCK):
        block = slice(start, start + BLOCK)
        yield block, tree.query(points[block], k=ranks)[1]


def _barycentric(
    points: NDArray[np.floating], corners: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [N, 3] moved into triangles [N, 3, 3], nearly the closest, and their barycentric coordinates [N, 3]."""
    a, b, c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    aa, ab, bb = (np.einsum("nc,nc->n", x, y) for x, y in ((a, a), (a, b), (b, b)))
    ca, cb = np.einsum("nc,nc->n", c, a), np.einsum("nc,nc->n", c, b)
    area = np.maximum(aa * bb - ab * ab, 1e-300)
    weights = np.empty((len(points), 3))
    weights[:, 1], weights[:, 2] = (bb * ca - ab * cb) / area, (aa * cb - ab * ca) / area
    weights[:, 0] = 1.0 - weights[:, 1] - weights[:, 2]
    np.clip(weights, 0.0, None, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nkc,nk->nc", corners, weights), weights
