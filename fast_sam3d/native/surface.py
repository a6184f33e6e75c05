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
from fast_sam3d.geometry.surface_cubes import CHUNK, SurfaceCubes, settled_cases, surface_cubes
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
        self._finish(found)
        weights = feats[:, WEIGHTS:COLOURLESS].index_select(0, found.rows.clamp(min=0)).float()
        weights.masked_fill_(found.rows[:, None] < 0, 0)
        vertices, of_edge, gamma = _vertices(found, weights, self.res + 1)
        del weights
        faces = _faces(found, of_edge, gamma)
        colours = vertices[:, 3:].contiguous() if self.use_color else None
        return SurfaceMesh(vertices[:, :3].contiguous(), faces, colours, self.res)

    def _finish(self, found: SurfaceCubes) -> None:
        """Replace displacements, of less than half a cell, by positions, and logits of colours by colours."""
        side, lattice, displacement = self.res + 1, found.lattice, found.values[:, 1:4]
        places = torch.stack([lattice // (side * side), lattice // side % side, lattice % side], dim=1)
        displacement.copy_(places / self.res - 0.5 + (1 - 1e-8) / (self.res * 2) * torch.tanh(displacement))
        found.values[:, 4:].sigmoid_()


def _vertices(found: SurfaceCubes, weights: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Dual vertices: weighted means of the points where the surface crosses the edges of their group.

    Args:
        weights: [n, 21] of the cubes, as the decoder gives them.

    Returns:
        [V, 3 + colours] positions and colours; [n, 12] int32, the vertex of each cube's edges, -1 for those not
        crossed; [V] weight in the choice of diagonals.
    """
    group_of_edge, group_count, group_edges, ambiguous = (table.to(weights.device) for table in tables())
    cases = settled_cases(found.occupied(), ambiguous, found.cubes, side)
    # Vertices are numbered by the number of groups of their cube, then cube, then group.
    count = group_count[cases]
    order = torch.sort(count, stable=True).indices
    ordered = count[order]
    first = torch.empty_like(count)
    first[order] = ordered.cumsum(0) - ordered
    there = torch.arange(group_edges.shape[1], device=weights.device) < ordered[:, None]
    place, group = there.nonzero().unbind(1)
    cube = order[place]
    own = group_of_edge.index_select(0, cases)
    of_edge = torch.where(own < 0, -1, first[:, None].int() + own)
    gamma = torch.sigmoid(weights[:, GAMMA]) * SPREAD + (1 - SPREAD) / 2
    beta, alpha = ((torch.tanh(weights[:, part]) * SPREAD + 1).flatten() for part in (BETA, ALPHA))
    edges = group_edges.view(-1, group_edges.shape[2])
    rows = cases[cube] * group_edges.shape[1] + group
    del there, place, group, order, ordered, first, own, count, cases
    vertices = [
        _crossings(found, edges.index_select(0, some), owner, alpha, beta)
        for some, owner in zip(rows.split(CHUNK), cube.split(CHUNK), strict=True)
    ]
    return torch.cat(vertices), of_edge, gamma[cube]


def _crossings(found: SurfaceCubes, edges: Tensor, cube: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """[V, 3 + colours]: mean of the crossings of a group's edges by beta, each between its ends by alpha and distance.

    Args:
        edges: [V, 7] of the groups, then -1. cube: [V]. alpha: [n * 8]. beta: [n * 12].
    """
    ends, corners = torch.tensor(EDGES, device=cube.device), found.corners.flatten()
    total = beta.new_zeros(len(cube), found.values.shape[1])
    total_beta = beta.new_zeros(len(cube), 1)
    for column in edges.unbind(1):
        at = (column >= 0).nonzero().flatten()
        owner, edge = cube.index_select(0, at), column.index_select(0, at)
        a, b = (ends[:, i].index_select(0, edge) + 8 * owner for i in (0, 1))
        value_a, value_b = (found.values.index_select(0, corners.index_select(0, i)) for i in (a, b))
        weight_a, weight_b = (v[:, :1] * alpha.index_select(0, i)[:, None] for v, i in ((value_a, a), (value_b, b)))
        share = beta.index_select(0, 12 * owner + edge)[:, None]
        crossing = value_a.mul_(weight_b).sub_(value_b.mul_(weight_a)).div_(weight_b - weight_a)
        total.index_add_(0, at, crossing.mul_(share))
        total_beta.index_add_(0, at, share)
    return total[:, 1:] / total_beta


def _faces(found: SurfaceCubes, of_edge: Tensor, gamma: Tensor) -> Tensor:
    """[F, 3]: the four vertices around each edge that four cubes share, split along the diagonal of larger weight.

    Args:
        of_edge: [n, 12] int32, vertex of each cube's edges, -1 for those not crossed. gamma: [V] weight of each vertex.
    """
    around = torch.full((len(found.lattice) * 3, 4), -1, dtype=torch.int32, device=of_edge.device)
    for edge, (first, _) in enumerate(EDGES):
        start = found.corners[:, first].long() * 3 + DIRECTION[edge]
        around.view(-1).scatter_(0, start * 4 + POSITION[edge], of_edge[:, edge])
    edges = (around >= 0).all(1).nonzero().flatten()
    outside = (found.values[:, 0] > 0).index_select(0, edges // 3)
    a, b, c, d = around.index_select(0, edges).unbind(1)
    del around, edges
    # Seen from outside counter-clockwise; first all edges that begin outside.
    quads = torch.where(outside[:, None], torch.stack([a, b, d, c], dim=1), torch.stack([c, d, b, a], dim=1))
    a, b, c, d = quads.index_select(0, torch.sort((~outside).int(), stable=True).indices).unbind(1)
    weight_ac, weight_bd = (gamma.index_select(0, i) * gamma.index_select(0, j) for i, j in ((a, c), (b, d)))
    split = torch.stack([a, b, c, a, c, d], dim=1), torch.stack([a, b, d, d, b, c], dim=1)
    return torch.where((weight_ac > weight_bd)[:, None], *split).long().view(-1, 3)
