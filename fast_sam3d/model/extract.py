"""Mesh of a signed-distance field that is known only near the surface."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.model.sparse import SparseTensor

if TYPE_CHECKING:
    import trimesh

log = logging.getLogger(__name__)

_TURN_Y_UP = ((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0), (0, 0, 0, 1))

TRUNCATION = 1.0
"""Magnitude of the distance, in voxels, assigned to cells of unknown distance."""

MARGIN = 3
"""Cells of empty space around the active ones."""

EXTRAPOLATED_CELLS = 2.0
"""Distance from an active cell, in cells, up to which the field is extrapolated."""

DECISIVE = 0.8
"""Share of a region's border that must agree for the whole region to take its sign."""

VOID = 8
"""A void is filled if at least this many of its cells are surrounded by void only; fewer are a gap between walls."""

SMALLEST = np.float32(0.01)
"""Smallest magnitude of a distance, in voxels, that marching cubes receives."""


@dataclass(frozen=True)
class MeshResult:
    """A triangle mesh in the canonical cube.

    vertices: [V, 3] float32, -0.5..0.5. faces: [F, 3] int64, counter-clockwise from outside.
    vertex_attrs: [V, 6] float32, colour in 0..1 and unit outward normal. success: whether there is any face.
    """

    vertices: Tensor
    faces: Tensor
    vertex_attrs: Tensor
    success: bool


class MeshExtractor:
    """Marching cubes over the cells of the active voxels.

    The field is extrapolated to cells near the active ones. Each connected region of the remaining cells takes the sign
    of its border, or, where the border has both signs, each cell that of the nearest field. So a voxel missing from the
    shell causes a dent, not a hole. Voids with no entrance wider than two cells are filled.

    Args:
        resolution: cells along each axis.
        min_component: connected parts with a smaller share of all faces are dropped, except the largest.
    """

    built_in_savings = ("extraction",)

    def __init__(self, resolution: int, min_component: float = 0.01) -> None:
        self.resolution = resolution
        self.min_component = min_component

    def __call__(self, fields: SparseTensor) -> MeshResult:
        """Extract the mesh of one object.

        Args:
            fields: n cells, feats [n, >= 4] (0 signed distance in voxels, negative inside; 1..3 RGB in 0..1).

        Returns:
            The mesh, on the features' device; empty if there is no surface.
        """
        device = fields.device
        feats = fields.feats.detach().float().cpu().numpy()
        cells = fields.coords[:, 1:].cpu().numpy().astype(np.int64)
        known = np.isfinite(feats[:, :4]).all(axis=1)
        feats, cells = feats[known], cells[known]
        if not len(feats):
            return _empty(device)
        if cells.max() >= self.resolution:
            raise ValueError(f"cell {cells.max()} outside the grid of {self.resolution}")

        low = cells.min(axis=0)
        shape = cells.max(axis=0) - low + 1
        index = np.full(shape + 2 * MARGIN, -1, dtype=np.int32)
        places = cells - low + MARGIN
        index[tuple(places.T)] = np.arange(len(cells), dtype=np.int32)
        volume, near = _fill(index, places, np.clip(feats[:, 0], -TRUNCATION, TRUNCATION))
        for axis in range(3):
            plane = np.arange(index.shape[axis]) + low[axis] - MARGIN
            np.moveaxis(volume, axis, 0)[(plane < 0) | (plane >= self.resolution)] = TRUNCATION
        vertices, faces = _march(volume)
        if not len(faces):
            return _empty(device)
        vertices, faces = _drop_small(vertices, faces, self.min_component)
        colours = _colour(vertices, index, near, feats[:, 1:4])
        normals = _vertex_normals(vertices, faces)
        # Lattice points are cell centres.
        points = (vertices + (low - MARGIN) + 0.5) / self.resolution - 0.5
        attrs = np.concatenate([np.clip(colours, 0, 1), normals], axis=1).astype(np.float32)
        return MeshResult(
            vertices=torch.from_numpy(points.astype(np.float32)).to(device),
            faces=torch.from_numpy(faces.astype(np.int64)).to(device),
            vertex_attrs=torch.from_numpy(attrs).to(device),
            success=True,
        )


def y_up(mesh: MeshResult) -> trimesh.Trimesh | None:
    """The mesh turned by (x, y, z) -> (x, z, -y), as the stock pipeline's `glb`; None if it is empty."""
    from fast_sam3d.outputs.meshes import mesh_to_trimesh

    if not mesh.success:
        log.warning("the mesh decoder found no surface: there is no mesh in the result")
        return None
    turned = mesh_to_trimesh(mesh)
    turned.apply_transform(_TURN_Y_UP)
    return turned


def _empty(device: torch.device) -> MeshResult:
    return MeshResult(
        vertices=torch.zeros(0, 3, device=device),
        faces=torch.zeros(0, 3, dtype=torch.int64, device=device),
        vertex_attrs=torch.zeros(0, 6, device=device),
        success=False,
    )


def _fill(index: np.ndarray, cells: np.ndarray, sdf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense distance, and the result of `_nearest_within_reach`.

    Args:
        index: [X, Y, Z] row of each active cell, else -1; at least MARGIN free on every side.
        cells: [n, 3] place of each row in `index`.
        sdf: [n] distance in voxels.
    """
    near = _nearest_within_reach(index, cells)
    rest = near < 0
    volume = np.full(index.shape, TRUNCATION, np.float32)
    volume[tuple(cells.T)] = sdf
    # The surface also crosses corners of inactive voxels, or lies just outside a layer of active ones. So the field is
    # extrapolated along its gradient by up to two cells; a bare sign would cause steps.
    close = np.nonzero((index < 0) & ~rest)
    rows = near[close]
    offset = np.stack(close, axis=1) - cells[rows]
    asked, which = np.unique(rows, return_inverse=True)
    rise = (_gradient(index, cells[asked], sdf)[which] * offset).sum(1)
    volume[close] = np.clip(sdf[rows] + rise, -TRUNCATION, TRUNCATION)
    _sign_of_the_rest(volume, rest)
    for axis in range(3):
        np.moveaxis(volume, axis, 0)[[0, -1]] = TRUNCATION
    # Exact zeros would put several vertices onto one lattice point and pinch the surface.
    small = np.abs(volume) < SMALLEST
    volume[small] = np.where(volume[small] < 0, -SMALLEST, SMALLEST)
    _fill_voids(volume)
    return volume, near


def _nearest_within_reach(index: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """[X, Y, Z] int32 row of the active cell that is nearest, -1 where none is within EXTRAPOLATED_CELLS.

    Ties go to the lowest z, then y, then x, as in `ndimage.distance_transform_edt`, which would visit the whole box
    instead of the cells near the active ones.
    """
    near = np.full(index.size, -1, np.int32)
    flat = np.ravel_multi_index(tuple(cells.T), index.shape)
    rows = np.arange(len(cells), dtype=np.int32)
    strides = (index.shape[1] * index.shape[2], index.shape[2], 1)
    for x, y, z in _STEPS:  # later ones are nearer and overwrite
        near[flat + (x * strides[0] + y * strides[1] + z)] = rows
    return near.reshape(index.shape)


def _steps(reach: float) -> list[tuple[int, int, int]]:
    """Offsets of length up to `reach`, the longest first; of equal length, the preferred last."""
    span = range(-int(reach), int(reach) + 1)
    found = [(x, y, z) for x in span for y in span for z in span if x * x + y * y + z * z <= reach * reach]
    return sorted(found, key=lambda step: (-(step[0] ** 2 + step[1] ** 2 + step[2] ** 2), *step[::-1]))


_STEPS = _steps(EXTRAPOLATED_CELLS)


def _sign_of_the_rest(volume: np.ndarray, rest: np.ndarray) -> None:
    """Assign the cells of `rest` [X, Y, Z] bool a sign from the field around them, in place.

    Each connected region takes the sign of nearly all of its border, as inside and outside of a closed shell do. If a
    hole in the shell joins the two, the border has both signs, and the nearest cell decides.
    """
    from scipy import ndimage

    region, count = ndimage.label(rest)
    inside, border = np.zeros(count + 1), np.zeros(count + 1)
    for axis in range(3):
        lower, upper = ((slice(None),) * axis + (side,) for side in (slice(None, -1), slice(1, None)))
        ends = rest[lower] != rest[upper]
        # One of the two cells is in a region; the other has label 0.
        labels = np.maximum(region[lower][ends], region[upper][ends])
        negative = np.where(rest[lower][ends], volume[upper][ends], volume[lower][ends]) < 0
        border += np.bincount(labels, minlength=count + 1)
        inside += np.bincount(labels, weights=negative, minlength=count + 1)
    share = inside / np.maximum(border, 1)
    decided = np.where(share > DECISIVE, -1, np.where(share < 1 - DECISIVE, 1, 0))
    volume[rest] = (decided * TRUNCATION)[region[rest]]
    boxes = ndimage.find_objects(region) if not decided[1:].all() else []
    for number, box in enumerate(boxes, start=1):
        if decided[number] == 0:
            # The nearest known cell borders on the region, as the straight line to it stays inside.
            wider = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
            where = ndimage.distance_transform_edt(rest[wider], return_distances=False, return_indices=True)
            part, mine = volume[wider], region[wider] == number
            part[mine] = np.where(part[tuple(axis[mine] for axis in where)] < 0, -TRUNCATION, TRUNCATION)


def _fill_voids(volume: np.ndarray) -> None:
    """Fill enclosed voids, in place: walls inside of the object are artefacts of a wrongly extrapolated shell.

    Enclosed are voids without an entrance, or with entrances of up to two cells (half a voxel) only. A narrow gap
    between two walls is not a void, as it has no room for a cell with its 26 neighbours.
    """
    from scipy import ndimage

    around = np.ones((3, 3, 3), bool)
    free = volume > 0
    region, count = ndimage.label(ndimage.binary_erosion(free, around, border_value=1))
    outside = region[0, 0, 0]
    void = np.bincount(region.ravel(), minlength=count + 1) >= VOID
    void[[0, outside]] = False
    if outside and void.any():
        beyond = ndimage.binary_dilation(region == outside, around)
        volume[ndimage.binary_dilation(void[region], around, iterations=2, mask=free & ~beyond)] = -TRUNCATION
    region, _ = ndimage.label(volume > 0)
    volume[(region > 0) & (region != region[0, 0, 0])] = -TRUNCATION


def _gradient(index: np.ndarray, cells: np.ndarray, sdf: np.ndarray) -> np.ndarray:
    """[n, 3] change of the distance per cell at `cells` [n, 3], from the active neighbours on either or both sides."""
    own = sdf[index[tuple(cells.T)]]
    gradient = np.zeros((len(cells), 3), np.float32)
    for axis in range(3):
        step = np.eye(3, dtype=np.int64)[axis]
        after, before = index[tuple((cells + step).T)], index[tuple((cells - step).T)]
        rise = np.where(after >= 0, sdf[after] - own, 0) + np.where(before >= 0, own - sdf[before], 0)
        gradient[:, axis] = rise / np.maximum((after >= 0) * 1 + (before >= 0), 1)
    return gradient


def _march(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in lattice units and outward faces of the zero set."""
    from skimage import measure

    if volume.min() >= 0:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    vertices, faces, _, _ = measure.marching_cubes(volume, 0.0, gradient_direction="ascent", allow_degenerate=False)
    corners = vertices[faces].astype(np.float64)
    if np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) < 0:
        faces = faces[:, ::-1]
    return vertices, faces


def _drop_small(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Without the connected parts that have less than `share` of the faces."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(vertices)
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    count = np.bincount(label[faces[:, 0]])
    kept_parts = count >= share * len(faces)
    kept_parts[count.argmax()] = True
    faces = faces[kept_parts[label[faces[:, 0]]]]
    used = np.zeros(n, bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def _colour(vertices: np.ndarray, index: np.ndarray, near: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Colour [V, 3] interpolated from the active cells around each vertex, or of the nearest where there is none."""
    low = np.floor(vertices).astype(np.int64)
    fraction = vertices - low
    total, weight = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    limit = np.array(index.shape) - 1
    for corner in np.ndindex(2, 2, 2):
        rows = index[tuple(np.minimum(low + corner, limit).T)]
        w = np.prod(np.where(np.array(corner) == 1, fraction, 1 - fraction), axis=1) * (rows >= 0)
        total += w[:, None] * rgb[rows]
        weight += w
    alone = weight < 1e-6
    if alone.any():
        places = tuple(np.minimum(np.rint(vertices[alone]).astype(np.int64), limit).T)
        rows = near[places]
        if (rows < 0).any():
            from scipy import ndimage

            where = ndimage.distance_transform_edt(index < 0, return_distances=False, return_indices=True)
            rows = index[tuple(axis[places] for axis in where)]
        total[alone] = rgb[rows]
        weight[alone] = 1
    return total / weight[:, None]


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3], the mean of the adjacent faces weighted by area."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normal[:, i], 3), minlength=len(vertices)) for i in range(3)], axis=1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
