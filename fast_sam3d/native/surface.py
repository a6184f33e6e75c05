"""The mesh of the published mesh decoder: dual vertices of a sparse grid, one per piece of surface in a cube.

A vertex is the weighted mean of its group's crossings of the cube's edges, and four cubes around a crossed edge make
two triangles. Vertices, faces, their numbers and colours equal those of the stock extractor bit for bit on a CPU.

Sources: Shen et al., 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization" (FlexiCubes), sections
4.2 and 4.3; the layout of the features and the constants are those of
sam3d_objects/model/backbone/tdfy_dit/representations/mesh/{cube2mesh,utils_cube}.py and flexicubes/flexicubes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.geometry.surface_cubes import SurfaceCubes, settled_cases, surface_cubes
from fast_sam3d.native.tables import EDGES, tables

__all__ = ["CELLS_PER_VOXEL", "SurfaceExtractor", "SurfaceMesh"]

CELLS_PER_VOXEL: Final = 4
"""Along each axis: the mesh decoder subdivides twice."""

DISTANCE, DEFORM, WEIGHTS, COLOUR = 0, 8, 32, 53
"""Where a cell's parts begin: distance and displacement (3) of each corner, 21 weights, colour (6) of each corner."""

WIDTH, COLOURLESS = 101, 53
"""Channels of a cell with and without colour."""

BETA, ALPHA, GAMMA = slice(0, 12), slice(12, 20), 20
"""Among the weights: of a cube's edges, of its corners, and of the cube in the choice of diagonals."""

SPREAD: Final = 0.99
"""How far weights depart from their middle, of the most that keeps them positive."""

# Of each edge: whether it runs along y, z or x, as FlexiCubes orders edges of one first corner, and which of the four
# cubes around the edge, ascending by x, y, z, the cube is that calls it so.
DIRECTION: Final = (2, 1, 2, 1, 2, 1, 2, 1, 0, 0, 0, 0)
POSITION: Final = (3, 1, 2, 3, 1, 0, 0, 2, 3, 1, 0, 2)


@dataclass(frozen=True)
class SurfaceMesh:
    """A triangle mesh with the attributes of stock's result; all on the device of the features.

    vertices: [V, 3] float32, -0.5..0.5. faces: [F, 3] int64, counter-clockwise from outside. vertex_attrs: [V, 6]
    float32 in 0..1, colour and a normal map, or None. res: cells along each axis.
    """

    vertices: Tensor
    faces: Tensor
    vertex_attrs: Tensor | None
    res: int

    @property
    def success(self) -> bool:
        """Whether there are vertices and faces."""
        return len(self.vertices) > 0 and len(self.faces) > 0

    @property
    def face_normal(self) -> Tensor:
        """[F, 3, 3] float32: each face's unit normal, once per corner."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return F.normalize(torch.linalg.cross(b - a, c - a), dim=1)[:, None].expand(-1, 3, -1)


class SurfaceExtractor:
    """Extracts a mesh from the cells of one object, called as stock's `SparseFeatures2Mesh`.

    Args:
        resolution: cells along each axis of the grid, 256 as published.
        use_color: whether cells have the channels of colour.

    Attributes:
        everywhere: take means at all corners of the grid, as stock does, to compare; the same mesh, slower.
    """

    built_in_savings: ClassVar = ("extraction",)

    def __init__(self, resolution: int, use_color: bool = True) -> None:
        self.res, self.use_color, self.everywhere = resolution, use_color, False

    @property
    def feats_channels(self) -> int:
        """Channels that each cell must have."""
        return WIDTH if self.use_color else COLOURLESS

    @torch.no_grad()
    def __call__(self, cells: Any, training: bool = False) -> SurfaceMesh:
        """Extract the mesh; without a surface it is empty, and `success` False.

        Args:
            cells: coords [N, 4] int (object, x, y, z), each cell once, and feats [N, feats_channels], any floating
                type; all computations are in float32. Nothing is changed in place.
            training: not implemented.

        Raises:
            ValueError: training, features of another width, or cells outside of the grid.
        """
        coords, feats = cells.coords[:, 1:], cells.feats
        if training:
            raise FastSam3dError("this extractor is for inference: call it with training=False")
        if feats.shape != (len(coords), self.feats_channels):
            raise FastSam3dError(f"features must be [{len(coords)}, {self.feats_channels}], not {list(feats.shape)}")
        if bool(((coords < 0) | (coords >= self.res)).any()):
            raise FastSam3dError(f"cells must lie in a grid of {self.res} along each axis")
        corner = torch.arange(8, device=feats.device)[:, None]
        parts = [(DISTANCE, 1), (DEFORM, 3), *([(COLOUR, 6)] if self.use_color else [])]
        channels = torch.cat(
            [at + size * corner + torch.arange(size, device=feats.device) for at, size in parts], dim=1
        )
        found = surface_cubes(coords, feats, channels, self.res + 1, -1.0 / self.res, self.everywhere)
        points = self._points(found.lattice, found.values[:, :3])
        colours = torch.sigmoid(found.values[:, 3:]) if self.use_color else None
        weights = feats[:, WEIGHTS:COLOURLESS].index_select(0, found.rows.clamp(min=0)).float()
        weights.masked_fill_(found.rows[:, None] < 0, 0)
        return SurfaceMesh(*_dual(found, points, colours, weights, self.res + 1), self.res)

    def _points(self, lattice: Tensor, displacement: Tensor) -> Tensor:
        """[M, 3] positions of corners, displaced by less than half a cell."""
        side = self.res + 1
        places = torch.stack([lattice // (side * side), lattice // side % side, lattice % side], dim=1)
        return places / self.res - 0.5 + (1 - 1e-8) / (self.res * 2) * torch.tanh(displacement)


def _dual(
    found: SurfaceCubes, points: Tensor, colours: Tensor | None, weights: Tensor, side: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vertices [V, 3], faces [F, 3] and colours [V, C].

    Args:
        points: [M, 3] and colours: [M, C] of the corners. weights: [n, 21] of the cubes, as the decoder gives them.
    """
    device = points.device
    known = [table.to(device) for table in tables()]
    group_of_edge, group_count, group_edges, ambiguous = known
    ends, corners = torch.tensor(EDGES, device=device), found.corners.view(-1)
    beta, alpha = ((torch.tanh(weights[:, part]) * SPREAD + 1).flatten() for part in (BETA, ALPHA))
    gamma = torch.sigmoid(weights[:, GAMMA]) * SPREAD + (1 - SPREAD) / 2
    cases = settled_cases(found.distance[found.corners] < 0, ambiguous, found.cubes, side)

    # Vertices are numbered by the number of groups of their cube, then cube, then group.
    count = group_count[cases]
    order = torch.sort(count, stable=True).indices
    ordered = count[order]
    first = torch.empty_like(count)
    first[order] = ordered.cumsum(0) - ordered
    place, group = (torch.arange(int(group_edges.shape[1]), device=device) < ordered[:, None]).nonzero().unbind(1)
    cube = order[place]

    edges = group_edges[cases[cube], group]  # [V, 7]
    values = torch.cat([found.distance[:, None], points, *(() if colours is None else (colours,))], dim=1)
    total, total_beta = values.new_zeros(len(cube), values.shape[1]), values.new_zeros(len(cube), 1)
    for column in edges.unbind(1):
        at = (column >= 0).nonzero().flatten()
        owner = cube.index_select(0, at)
        edge = column.index_select(0, at)
        a, b = (ends[:, i].index_select(0, edge) + 8 * owner for i in (0, 1))
        value_a, value_b = (values.index_select(0, corners.index_select(0, i)) for i in (a, b))
        weight_a, weight_b = (v[:, :1] * alpha.index_select(0, i)[:, None] for v, i in ((value_a, a), (value_b, b)))
        share = beta.index_select(0, 12 * owner + edge)[:, None]
        crossing = value_a.mul_(weight_b).sub_(value_b.mul_(weight_a)).div_(weight_b - weight_a)
        total.index_add_(0, at, crossing.mul_(share))
        total_beta.index_add_(0, at, share)
    total /= total_beta
    vertices, attributes = total[:, 1:4].contiguous(), None if colours is None else total[:, 4:].contiguous()

    own = group_of_edge.index_select(0, cases)
    of_edge = torch.where(own < 0, -1, first[:, None].int() + own)
    return vertices, _faces(found, of_edge, gamma[cube]), attributes


def _faces(found: SurfaceCubes, of_edge: Tensor, gamma: Tensor) -> Tensor:
    """[F, 3]: the four vertices around each edge that four cubes share, split along the diagonal of larger weight.

    Args:
        of_edge: [n, 12] int32, vertex of each cube's edges, -1 for those not crossed. gamma: [V] weight of each vertex.
    """
    around = torch.full((len(found.lattice) * 3, 4), -1, dtype=torch.int32, device=of_edge.device)
    for edge, (first, _) in enumerate(EDGES):
        start = found.corners[:, first] * 3 + DIRECTION[edge]
        around.view(-1).index_copy_(0, start * 4 + POSITION[edge], of_edge[:, edge])
    edges = (around >= 0).all(1).nonzero().flatten()
    outside = found.distance.index_select(0, edges // 3) > 0
    a, b, c, d = around.index_select(0, edges).long().unbind(1)
    # Seen from outside counter-clockwise; first all edges that begin outside.
    quads = torch.where(outside[:, None], torch.stack([a, b, d, c], dim=1), torch.stack([c, d, b, a], dim=1))
    quads = quads.index_select(0, torch.sort((~outside).int(), stable=True).indices)
    a, b, c, d = quads.unbind(1)
    heavier = gamma[a] * gamma[c] > gamma[b] * gamma[d]
    split = torch.where(
        heavier[:, None], torch.stack([a, b, c, a, c, d], dim=1), torch.stack([a, b, d, d, b, c], dim=1)
    )
    return split.view(-1, 3)
