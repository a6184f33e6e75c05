"""Merging the voxels of a structured latent: by how much, and how. Pure functions and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.errors import ConfigError, suggest
from fast_sam3d.ranges import number, whole

FACTORS = (1.0, 1.25, 1.5, 2.0)
PLACES = ("decoder", "voxels")
POOLS = ("max", "mean")


@dataclass(frozen=True, slots=True)
class MeshMethod:
    """Spectral-aware token aggregation: the busier an object, the less its voxels are merged.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.4. Its public release merges before the structured latent is
    sampled, which coarsens gaussians too, and never leaves an object as it is.

    Args:
        where: "decoder": the mesh decoder alone sees merged voxels, and its mesh comes back at the original scale.
            "voxels": the voxels are merged about the cube's centre before the structured latent is sampled; meshes and
            gaussians are smaller by the factor then, and the pose's scale larger, as where the stock pipeline halves a
            crowded grid.
        weight: of the picture's ratio against the shape's.
        threshold_low, threshold_high: ratios at which the factor changes.
        factors: below threshold_low, between the two, from threshold_high on; each of 1, 1.25, 1.5, 2, none greater
            than the one before.
        min_voxels: smaller objects keep all their voxels.
        pool: "max" or "mean", of the features that come together in the decoder.
    """

    where: str = "decoder"
    weight: float = 0.9
    threshold_low: float = 0.5
    threshold_high: float = 0.7
    factors: tuple[float, ...] = (2.0, 1.5, 1.25)
    min_voxels: int = 512
    pool: str = "max"

    def __post_init__(self) -> None:
        if self.where not in PLACES:
            raise ConfigError(f"where is {self.where!r}: {suggest(str(self.where), PLACES)}")
        if self.pool not in POOLS:
            raise ConfigError(f"pool is {self.pool!r}: {suggest(str(self.pool), POOLS)}")
        for name in ("weight", "threshold_low", "threshold_high"):
            number(name, getattr(self, name), 0.0, 1.0)
        if self.threshold_low > self.threshold_high:
            raise ConfigError(
                f"threshold_low is {self.threshold_low:g}, above threshold_high, {self.threshold_high:g}: swap them"
            )
        whole("min_voxels", self.min_voxels, 0)
        factors = self.factors
        known = isinstance(factors, (list, tuple)) and len(factors) == 3 and all(f in FACTORS for f in factors)
        if not known or list(factors) != sorted(factors, reverse=True):
            raise ConfigError(
                f"factors is {factors!r}: give three of {', '.join(f'{f:g}' for f in FACTORS)}, the greatest first"
            )
        object.__setattr__(self, "factors", tuple(float(f) for f in factors))

    def factor(self, ratio: float | None, voxels: int) -> float:
        """By how much to merge an object; 1 where its spectrum says nothing."""
        if ratio is None or voxels < max(self.min_voxels, 1):
            return 1.0
        low, middle, high = self.factors
        return low if ratio < self.threshold_low else middle if ratio < self.threshold_high else high

    def settings(self) -> dict[str, Any]:
        """The method as a plain mapping."""
        return {**dataclasses.asdict(self), "factors": list(self.factors)}


def build_mesh_method(mapping: Any, path: str = "mesh") -> MeshMethod:
    """The method that a mapping describes.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{path} is {mapping!r}: give a mapping, such as {{where: decoder}}")
    valid = [f.name for f in dataclasses.fields(MeshMethod)]
    for key in mapping:
        if key not in valid:
            raise ConfigError(f"{path}.{key} is unknown: {suggest(str(key), valid)}")
    try:
        return MeshMethod(**mapping)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None


def merge(coords: Tensor, factor: float, centre: float = 0.0) -> tuple[Tensor, Tensor]:
    """Bins of voxels: bin q holds those whose middles lie from centre + factor (q - centre) up to the next bin's.

    The paper's floor(p / factor) looks at a voxel's lower corner, and cuts up to a voxel off the upper side of what is
    thin: a slab of two would keep 1.25 of them. With middles no more than half a voxel is lost on either side.

    Args:
        coords: [N, 4] int (object, x, y, z).
        factor: edge of a bin in voxels, at least 1.
        centre: what stays where it is: 0 a corner of the grid, half the resolution its middle.

    Returns:
        [M, 4] bins in the order of (object, x, y, z), dtype of coords, and [N] int64 the bin of each voxel.
    """
    if factor == 1:
        return coords, torch.arange(len(coords), device=coords.device)
    places = torch.floor((coords[:, 1:].double() + 0.5 - centre) / factor + centre)
    binned = torch.cat([coords[:, :1], places.to(coords.dtype)], dim=1)
    bins, index = torch.unique(binned, dim=0, return_inverse=True)
    return bins, index


def max_pool(feats: Tensor, index: Tensor, count: int) -> Tensor:
    """Greatest value of each channel in each bin: [N, C], [N] -> [count, C]."""
    pooled = feats.new_full((count, feats.shape[1]), -torch.inf)
    return pooled.scatter_reduce_(0, index[:, None].expand_as(feats), feats, "amax")


def mean_pool(feats: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of each channel in each bin: [N, C], [N] -> [count, C]."""
    pooled = feats.new_zeros((count, feats.shape[1]))
    return pooled.scatter_reduce_(0, index[:, None].expand_as(feats), feats, "mean", include_self=False)


def unmerged(vertices: Tensor, factor: float) -> Tensor:
    """Vertices of a mesh that was made from bins about the grid's corner, in the cube of the voxels.

    Bin q is decoded where voxel q would be, at (q + [0, 1]) / R - 1/2, and holds the voxels factor q .. factor (q + 1).
    So what lies at v belongs to factor (v + 1/2) - 1/2, whatever the resolution R.
    """
    return (vertices + 0.5) * factor - 0.5
