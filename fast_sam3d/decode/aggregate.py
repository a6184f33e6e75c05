"""Merging the voxels of a structured latent: settings and pure functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import OneOf, Real, Settings, Whole, build_settings, setting

FACTORS = (1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class MeshMethod(Settings):
    """Spectral-aware token aggregation: the more high-frequency detail, the fewer voxels are merged.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.4. Its public release merges before the structured latent is
    sampled, which also coarsens gaussians, and merges every object.

    Args:
        where: "decoder": only the mesh decoder gets merged voxels, and its mesh is scaled back. "voxels": voxels are
            merged about the cube's centre before the structured latent is sampled; meshes and gaussians are then
            smaller by the factor and the pose's scale larger, as where the stock pipeline halves a crowded grid.
        weight: of the image's ratio; the shape's has 1 - weight.
        threshold_low, threshold_high: ratios at which the factor changes, 0..1.
        factors: below threshold_low, between the two, from threshold_high on; each of 1, 1.25, 1.5, 2, none greater
            than the one before, but that the first may be 1.
        min_voxels: smaller objects are not merged.
        crowded: objects of so many voxels or more are merged by 2, whatever their ratio; 0: there is no such number.
        pool: "max" or "mean" of merged features in the decoder.
    """

    where: str = setting("decoder", OneOf(("decoder", "voxels")))
    weight: float = setting(0.9, Real(0.0, 1.0))
    threshold_low: float = setting(0.5, Real(0.0, 1.0))
    threshold_high: float = setting(0.7, Real(0.0, 1.0))
    factors: tuple[float, ...] = setting((2.0, 1.5, 1.25))
    min_voxels: int = setting(512, Whole(0))
    crowded: int = setting(0, Whole(0))
    pool: str = setting("max", OneOf(("max", "mean")))

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.threshold_low > self.threshold_high:
            raise ConfigError(
                f"threshold_low is {self.threshold_low:g}, above threshold_high, {self.threshold_high:g}: swap them"
            )
        factors = self.factors
        known = isinstance(factors, (list, tuple)) and len(factors) == 3 and all(f in FACTORS for f in factors)
        rest = factors[1:] if known and factors[0] == 1 else factors
        if not known or list(rest) != sorted(rest, reverse=True):
            raise ConfigError(
                f"factors is {factors!r}: give three of {', '.join(f'{f:g}' for f in FACTORS)}, the greatest first"
                " (the first may be 1)"
            )
        object.__setattr__(self, "factors", tuple(float(f) for f in factors))

    def factor(self, ratio: float | None, voxels: int) -> float:
        """The factor for an object; 1 where its ratio is undefined."""
        if 0 < self.crowded <= voxels:
            return 2.0
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
    return build_settings(MeshMethod, mapping, path, "{where: decoder}")


def merge(coords: Tensor, factor: float, centre: float = 0.0) -> tuple[Tensor, Tensor]:
    """Bins of voxels: bin q holds the voxels with middles from centre + factor (q - centre) up to the next bin's start.

    The paper's floor(p / factor) uses a voxel's lower corner, which cuts up to a voxel off the upper side of thin
    parts: a slab of two voxels would keep 1.25 of them. With middles, at most half a voxel is lost on either side.

    Args:
        coords: [N, 4] int (object, x, y, z), on the host: bins are found in float64.
        factor: edge of a bin in voxels, at least 1.
        centre: the fixed point: 0 for a corner of the grid, half the resolution for its middle.

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
    """Mean of each channel in each bin, computed in float32 or better: [N, C], [N] -> [count, C], dtype of feats."""
    wide = feats.to(torch.promote_types(feats.dtype, torch.float32))
    pooled = wide.new_zeros((count, feats.shape[1]))
    pooled.scatter_reduce_(0, index[:, None].expand_as(feats), wide, "mean", include_self=False)
    return pooled.to(feats.dtype)


def unmerged(vertices: Tensor, factor: float) -> Tensor:
    """Vertices of a mesh decoded from bins about the grid's corner, scaled back to the original cube.

    Bin q is decoded at (q + [0, 1]) / R - 1/2 and holds the voxels factor q .. factor (q + 1). So a vertex v moves to
    factor (v + 1/2) - 1/2, for any resolution R.
    """
    return (vertices + 0.5) * factor - 0.5
