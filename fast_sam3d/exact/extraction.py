"""Mesh extraction from the cubes that intersect the surface, instead of all cubes of the grid.

The stock extractor (representations/mesh/cube2mesh.py, `SparseFeatures2Mesh`)
scatters the features of the active cells to the whole grid, 256^3 cubes of eight corners, and passes that to
FlexiCubes, which first selects the cubes with corners of both signs. A corner that no active cell touches has the
distance 1, so these cubes lie around active cells; here they are selected first, and FlexiCubes gets only them. Cubes
and corners keep their order (by x, y, z), and every value results from the same operations on the same values, so
vertices, faces and colours are equal bit for bit.

On a GPU the stock extractor adds with atomics, so its own results vary in rounding; these differ by as much.

The cubes are found by `geometry/surface_cubes.py`.
"""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.errors import is_out_of_memory
from fast_sam3d.geometry.surface_cubes import settled_cases, surface_cubes
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
            if is_out_of_memory(error):
                raise
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
    res, feats = extractor.res, cells.feats
    sdf, weights = extractor.get_layout(feats, "sdf"), extractor.get_layout(feats, "weights")
    sdf += extractor.sdf_bias
    flexicubes = copy.copy(extractor.mesh_extractor)
    side = res + 1
    found = surface_cubes(cells.coords[:, 1:], feats, _channels(extractor, feats.device), side)
    attributes = found.values.to(feats.dtype)
    cube_weights = weights.new_zeros(len(found.cubes), weights.shape[1])
    cube_weights[found.rows >= 0] = weights[found.rows[found.rows >= 0]]
    lattice = found.lattice
    places = torch.stack([lattice // (side * side), lattice // side % side, lattice % side], dim=1)
    # `get_defomed_verts`
    points = places / res - 0.5 + (1 - 1e-8) / (res * 2) * torch.tanh(attributes[:, 1:4])
    regular = _Regular(flexicubes.check_table, flexicubes.cube_edges, found.cubes, side)
    flexicubes._get_case_id = regular.case_ids
    flexicubes._identify_surf_edges = regular.surface_edges
    flexicubes._compute_reg_loss = lambda *args: None  # asked for in training only
    vertices, faces, _, colours = flexicubes(
        voxelgrid_vertices=points.to(attributes.dtype),
        scalar_field=attributes[:, 0],
        cube_idx=found.corners.long(),
        resolution=res,
        beta=cube_weights[:, :12],
        alpha=cube_weights[:, 12:20],
        gamma_f=cube_weights[:, 20],
        voxelgrid_colors=attributes[:, 4:] if extractor.use_color else None,
        training=False,
    )
    return vertices, faces, colours


def _channels(extractor: Any, device: torch.device) -> Tensor:
    """[8, 1 + C] of the features: distance, displacement and colour, if there is colour, at each corner of a cell."""
    corner = torch.arange(8, device=device)[:, None]
    found = []
    for name in ("sdf", "deform", "color"):
        if name in extractor.layouts:
            start, size = extractor.layouts[name]["range"][0], extractor.layouts[name]["shape"][-1]
            found.append(start + size * corner + torch.arange(size, device=device))
    return torch.cat(found, dim=1)


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
        """Number of each cube's case. All cubes are chosen here."""
        return settled_cases(occupied, self.check_table, self.cubes, self.side)

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
