"""Mesh extraction from the cubes that intersect the surface, instead of all cubes of the grid.

The stock extractor (sam3d_objects/model/backbone/tdfy_dit/representations/mesh/cube2mesh.py, `SparseFeatures2Mesh`)
scatters the features of the active cells to the whole grid, 256^3 cubes of eight corners, and passes that to
FlexiCubes, which first selects the cubes with corners of both signs. A corner that no active cell touches has the
distance 1, so these cubes lie around active cells; here they are selected first, and FlexiCubes gets only them. Cubes
and corners keep their order (by x, y, z), and every value results from the same operations on the same values, so
vertices, faces and colours are equal bit for bit.

On a GPU the stock extractor adds with atomics, so its own results vary in rounding; these differ by as much.
"""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.patch import Seam

logger = logging.getLogger(__name__)

TRIAL_RESOLUTION = 7
"""Cubes along each axis of the grid of the trial."""


class ExtractionSeam(Seam):
    """Replaces a mesh decoder's `mesh_extractor`, called as (cells, training=False); forwards its attributes."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder, "mesh_extractor")
        self.result: Any = None
        """The class of the extractor's results after the trial; False if the trial failed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.original(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        extractor: Any = self.original()
        if len(args) != 1 or kwargs.get("training", False) or kwargs.keys() - {"training"}:
            return extractor(*args, **kwargs)
        if self.result is None:
            self.result = self._try(extractor)
        if not self.result or not _inside(args[0].coords, extractor.res):
            return extractor(*args, **kwargs)
        vertices, faces, colours = extract(extractor, args[0])
        return self.result(vertices=vertices, faces=faces, vertex_attrs=colours, res=extractor.res)

    def _try(self, extractor: Any) -> Any:
        try:
            return _trial(extractor)
        except Exception as error:  # of any kind: the extractor is not the known one
            logger.warning(
                "mesh: exact.extraction stays off, because the extractor (%s) fails on a small trial: %s: %s",
                type(extractor).__name__,
                type(error).__name__,
                error,
            )
            return False


def extract(extractor: Any, cells: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vertices [V, 3], faces [F, 3] and colours [V, 6] of one object, as in `SparseFeatures2Mesh.__call__`.

    Args:
        extractor: the stock one.
        cells: coords [N, 4] (object, x, y, z) in the grid, feats [N, extractor.feats_channels]. As there, the bias of
            the distance is added to the features in place.
    """
    res, coords, feats = extractor.res, cells.coords[:, 1:].long(), cells.feats
    sdf, deform, colour, weights = (extractor.get_layout(feats, name) for name in ("sdf", "deform", "color", "weights"))
    sdf += extractor.sdf_bias
    flexicubes = copy.copy(extractor.mesh_extractor)
    side = res + 1
    # A cube has the number of its lower corner.
    across = torch.tensor([side * side, side, 1], device=feats.device)
    corners = (flexicubes.cube_corners.long() * across).sum(1)
    active = (coords * across).sum(1)
    touched = active[:, None] + corners  # [N, 8]

    cubes = _surface_cubes(touched, sdf, side)
    needed = cubes[:, None] + corners
    is_needed, lattice, number = _numbered(needed, side)
    cube_corners = number[needed].long()

    # `cubes_to_verts` and `get_dense_attrs`: the mean over the active cells around a corner; distance 1, else 0 beyond.
    here = is_needed[touched]
    target = number[touched[here]].long()
    del touched, needed, is_needed
    values = torch.cat([part[here] for part in (sdf, deform, colour) if part is not None], dim=-1)
    attributes = values.new_zeros(len(lattice), values.shape[1])
    attributes[:, 0] = 1
    attributes = _mean(attributes, target, values)
    del here, target, values
    row = number.fill_(-1)
    row[active] = torch.arange(len(active), dtype=torch.int32, device=feats.device)
    row = row[cubes].long()
    cube_weights = weights.new_zeros(len(cubes), weights.shape[1])
    cube_weights[row >= 0] = weights[row[row >= 0]]
    del number

    places = torch.stack([lattice // (side * side), lattice // side % side, lattice % side], dim=1)
    # `get_defomed_verts`
    points = places / res - 0.5 + (1 - 1e-8) / (res * 2) * torch.tanh(attributes[:, 1:4])
    regular = _Regular(flexicubes.check_table, flexicubes.cube_edges, cubes, side)
    flexicubes._get_case_id = regular.case_ids
    flexicubes._identify_surf_edges = regular.surface_edges
    flexicubes._compute_reg_loss = lambda *args: None  # asked for in training only
    vertices, faces, _, colours = flexicubes(
        voxelgrid_vertices=points.to(attributes.dtype),
        scalar_field=attributes[:, 0],
        cube_idx=cube_corners,
        resolution=res,
        beta=cube_weights[:, :12],
        alpha=cube_weights[:, 12:20],
        gamma_f=cube_weights[:, 20],
        voxelgrid_colors=attributes[:, 4:] if extractor.use_color else None,
        training=False,
    )
    return vertices, faces, colours


def _surface_cubes(touched: Tensor, sdf: Tensor, side: int) -> Tensor:
    """Cubes with corners of both signs, in their order.

    Args:
        touched: [N, 8] corners of the active cells. sdf: [N, 8, 1] distances there. side: corners along each axis.
    """
    is_active, lattice, number = _numbered(touched, side)
    mean = _mean(sdf.new_zeros(len(lattice), 1), number[touched.flatten()].long(), sdf.flatten(0, 1))
    some = is_active.fill_(False)
    some[lattice[mean[:, 0] < 0]] = True
    some = every = some.view(side, side, side)
    for axis in range(3):
        some = some.narrow(axis, 0, side - 1) | some.narrow(axis, 1, side - 1)
        every = every.narrow(axis, 0, side - 1) & every.narrow(axis, 1, side - 1)
    x, y, z = (some & ~every).nonzero().unbind(1)
    return (x * side + y) * side + z


def _numbered(corners: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Some corners of the grid, ascending: whether each of all is among them, their indices, and each one's number."""
    there = torch.zeros(side**3, dtype=torch.bool, device=corners.device)
    there[corners.flatten()] = True
    lattice = there.nonzero().flatten()
    number = torch.empty(side**3, dtype=torch.int32, device=corners.device)
    number[lattice] = torch.arange(len(lattice), dtype=torch.int32, device=corners.device)
    return there, lattice, number


def _mean(start: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Mean [V, C] of the values [P, C] of each index [P]; `start` where there are none."""
    return start.scatter_reduce(0, index[:, None].expand_as(values), values, "mean", include_self=False)


class _Regular:
    """FlexiCubes' look-ups in the whole grid, for some of its cubes.

    Args:
        check_table: [256, 5] of each case: 1 where it is ambiguous, step to the cube that decides, case in place of it.
        cube_edges: [24] corners of a cube's edges.
        cubes: [n] numbers of their lower corners, ascending.
        side: corners along each axis.
    """

    def __init__(self, check_table: Tensor, cube_edges: Tensor, cubes: Tensor, side: int) -> None:
        self.check_table, self.cube_edges, self.cubes, self.side = check_table, cube_edges, cubes, side

    def case_ids(self, occupied: Tensor, chosen: Tensor, resolution: int) -> Tensor:
        """Number of each cube's case: two ambiguous ones that share the face in question are inverted.

        Source: FlexiCubes (Shen et al., 2023), supplement 1.3. All cubes are chosen here.

        Args:
            occupied: [n, 8] bool.
        """
        cases = (occupied << torch.arange(8, device=occupied.device)).sum(1)
        check = self.check_table[cases]
        asked = (check[:, 0] == 1).nonzero().flatten()
        cubes, side = self.cubes[asked], self.side
        other = torch.stack([cubes // (side * side), cubes // side % side, cubes % side], dim=1) + check[asked, 1:4]
        inside = ((other >= 0) & (other < side - 1)).all(1)
        asked, other = asked[inside], other[inside]
        number = (other[:, 0] * side + other[:, 1]) * side + other[:, 2]
        at = torch.searchsorted(self.cubes, number).clamp_(max=max(len(self.cubes) - 1, 0))
        inverted = asked[(self.cubes[at] == number) & (check[at, 0] == 1)]
        cases[inverted] = check[inverted, 4]
        return cases

    def surface_edges(self, scalar_field: Tensor, cube_corners: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
        """The edges with ends of both signs, each once and in order.

        Returns:
            [E, 2] corners of each; then for the twelve edges of all cubes in turn [12 n]: its number or -1; how many
            of the cubes share it (0 without a number); whether it has one.
        """
        negative = scalar_field < 0
        ends = cube_corners[:, self.cube_edges].view(-1, 2)
        crossed = negative[ends[:, 0]] != negative[ends[:, 1]]
        ends = ends[crossed]
        # One key sorts like the pair of ends, and much faster.
        keys, index, count = torch.unique(
            ends[:, 0] * len(scalar_field) + ends[:, 1], return_inverse=True, return_counts=True
        )
        edges = torch.stack([keys // len(scalar_field), keys % len(scalar_field)], dim=1)
        number = torch.full_like(crossed, -1, dtype=torch.long)
        number[crossed] = index
        shared = torch.zeros_like(number)
        shared[crossed] = count[index]
        return edges, number, shared, crossed


def _inside(coords: Tensor, res: int) -> bool:
    """Whether there are cells, and all in the grid."""
    return len(coords) > 0 and bool(((coords[:, 1:] >= 0) & (coords[:, 1:] < res)).all())


def _trial(extractor: Any) -> Any:
    """Extract a small mesh both ways with a small extractor of the same class.

    Returns:
        the class of its results.

    Raises:
        Exception: of any kind, if the two differ or one of them fails.
    """
    with torch.device("cpu"), torch.no_grad():
        small = type(extractor)(device="cpu", res=TRIAL_RESOLUTION, use_color=extractor.use_color)
        if type(small.mesh_extractor) is not type(extractor.mesh_extractor):
            raise TypeError(f"it works with a {type(extractor.mesh_extractor).__name__}")
        generator = torch.Generator("cpu").manual_seed(0)
        coords = (torch.rand(TRIAL_RESOLUTION**3, generator=generator) < 0.5).view([TRIAL_RESOLUTION] * 3).nonzero()
        feats = torch.randn(len(coords), extractor.feats_channels, generator=generator)
        coords = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1).int()
        want = small(SimpleNamespace(coords=coords, feats=feats.clone()), training=False)
        got: tuple[Any, ...] = extract(small, SimpleNamespace(coords=coords, feats=feats))
    for name, value in zip(("vertices", "faces", "vertex_attrs"), got, strict=True):
        known = getattr(want, name)
        if (known is None) != (value is None) or (known is not None and not torch.equal(known, value)):
            raise ValueError(f"{name} differ")
    return type(want)
