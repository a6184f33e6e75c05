"""The published mesh decoder: structured latent to the fields of 64 cells per voxel, and their surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import CHILDREN
from fast_sam3d.model.sparse import SparseConv3d, SparseTensor
from fast_sam3d.native.children import convolve_children, kernels_of
from fast_sam3d.native.surface import CELLS_PER_VOXEL, SurfaceExtractor
from fast_sam3d.native.trunk import Trunk, TrunkConfig

__all__ = ["CELL_CHANNELS", "GROUPS", "MeshDecoder", "MeshDecoderConfig", "UpsampleBlock"]

CELL_CHANNELS: Final = 101
"""Of each cell: distance 8, displacement 8 x 3, weights 21 and colour 8 x 6, of its corners or of the cell."""

GROUPS: Final = 32
"""Groups of channels of each group norm."""

CHUNK: Final = 1 << 16
"""Cells computed at a time unless a memory plan says otherwise."""

_BORN: Final = len(CHILDREN)


@dataclass(frozen=True)
class MeshDecoderConfig(TrunkConfig):
    """Sizes of the mesh decoder; the defaults are the published ones.

    Raises:
        ValueError: an eighth of the width is not a multiple of GROUPS.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_channels % (8 * GROUPS):
            raise ValueError(f"model_channels must be a multiple of {8 * GROUPS}, got {self.model_channels}")


_Rows = Iterator[tuple[slice, Tensor]]
"""Some rows of a tensor at a time."""


class UpsampleBlock(nn.Module):
    """Each voxel becomes eight, refined by two sparse convolutions next to a skip connection that all eight share.

    Args:
        channels: before. out_channels: after.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.SiLU())
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels),
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            SparseConv3d(out_channels, out_channels),
        )
        self.skip_connection = nn.Linear(channels, out_channels)

    def forward(
        self, x: SparseTensor, chunk: int | None = None, folded: bool = True, last: nn.Module | None = None
    ) -> SparseTensor:
        """N voxels -> 8 N voxels; rows 8 n .. 8 n + 7 are the children of voxel n.

        Args:
            x: [N, channels].
            chunk: children computed at a time; None for all at once. Equal up to rounding.
            folded: convolve the voxels, with a kernel summed for each child, instead of eight equal copies of each.
            last: a layer from out_channels to any, applied to each row in float32.
        """
        pieces, neighbours = _pieces(x.layout, chunk), x.grid.neighbours()
        norms: Any = (self.act_layers[0], self.out_layers[1])
        convolutions: Any = (self.out_layers[0], self.out_layers[3])
        feats = _norm_silu_(x.feats.clone(), norms[0], pieces, 1)
        if not folded:
            feats = feats.repeat_interleave(_BORN, dim=0)
        h = _collected(_convolved(feats, convolutions[0], neighbours, pieces, folded), len(x) * _BORN)
        del feats
        _norm_silu_(h, norms[1], pieces, _BORN)
        rows = self._finish(x.feats, _convolved(h, convolutions[1], neighbours, pieces, False), last)
        return SparseTensor(_collected(rows, len(x) * _BORN), x.grid.subdivided())

    def _finish(self, x: Tensor, refined: _Rows, last: nn.Module | None) -> _Rows:
        """Add the skip connection to some of the children at a time."""
        for children, rows in refined:
            voxels = slice(children.start // _BORN, children.stop // _BORN)
            rows = rows + self.skip_connection(x[voxels]).repeat_interleave(_BORN, dim=0)
            yield children, rows if last is None else last(rows.float())


def _pieces(layout: Sequence[slice], chunk: int | None) -> list[list[slice]]:
    """Of each object, the voxels whose children are computed together."""
    steps = [rows.stop - rows.start if chunk is None else max(chunk // _BORN, 1) for rows in layout]
    return [
        [slice(a, min(a + step, rows.stop)) for a in range(rows.start, rows.stop, step)]
        for rows, step in zip(layout, steps, strict=True)
    ]


def _collected(parts: _Rows, count: int) -> Tensor:
    """All rows [count, C] from some of them at a time."""
    rows, part = next(parts)
    out = part.new_empty(count, part.shape[1])
    out[rows] = part
    for rows, part in parts:
        out[rows] = part
    return out


def _convolved(
    feats: Tensor, layer: SparseConv3d, neighbours: Tensor, pieces: list[list[slice]], copies: bool
) -> _Rows:
    """A convolution of children, of some of them at a time: their rows and features, in the type of `feats`."""
    kernels = kernels_of(layer.weight.to(feats.dtype), copies)
    for piece in chain.from_iterable(pieces):
        out = convolve_children(feats, neighbours[piece], kernels, piece.start, copies)
        yield slice(piece.start * _BORN, piece.stop * _BORN), (out + layer.bias).to(feats.dtype)


def _norm_silu_(feats: Tensor, norm: nn.GroupNorm, pieces: list[list[slice]], born: int) -> Tensor:
    """Group norm over all voxels of each object, in float32, then SiLU; in place.

    Means and sums of squares of parts are combined as in Chan et al., 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances", so that the result does not depend on the parts, except for rounding.

    Args:
        feats: [born * N, C].
        pieces: voxels of each object that are read at a time. born: rows of each.
    """
    for voxels in pieces:
        parts = [slice(born * piece.start, born * piece.stop) for piece in voxels]
        scale, shift = _scale_and_shift(feats, norm, parts)
        for rows in parts:
            feats[rows] = F.silu((feats[rows].float() * scale + shift).to(feats.dtype))
    return feats


def _scale_and_shift(feats: Tensor, norm: nn.GroupNorm, parts: list[slice]) -> tuple[Tensor, Tensor]:
    """A group norm of rows [M, C] as a product and a sum with two vectors [C], float32."""
    moments = [torch.var_mean(feats[rows].float(), dim=0, correction=0) for rows in parts]
    variances, means = (torch.stack(found) for found in zip(*moments, strict=True))  # [P, C]
    weights = torch.tensor([float(rows.stop - rows.start) for rows in parts], device=feats.device)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean).square())).sum(0)
    grouped = mean.view(norm.num_groups, -1)
    centre = grouped.mean(1, keepdim=True)
    spread = (variance.view_as(grouped) + (grouped - centre).square()).mean(1, keepdim=True)
    scale = (spread + norm.eps).rsqrt() * norm.weight.view_as(grouped)
    return scale.flatten(), (norm.bias.view_as(grouped) - centre * scale).flatten()


class MeshDecoder(Trunk):
    """Structured latent to the fields of cells at four times the resolution, and the mesh of each object.

    Source: the stock class (sam3d_objects/model/backbone/tdfy_dit/models/structured_latent_vae/decoder_mesh.py).

    Args:
        config: sizes.

    Attributes:
        chunk: cells computed at a time; None for all at once. Results are equal up to rounding. At the published sizes
            65,536 cells take about 0.1 GiB.
        folded: convolve voxels instead of eight equal copies of each after a subdivision; off to compare.
    """

    built_in_savings = ("attention", "subdivision")
    half_parts = ("blocks", "upsample")
    config: MeshDecoderConfig

    def __init__(self, config: MeshDecoderConfig) -> None:
        super().__init__(config)
        width = config.model_channels
        self.upsample = nn.ModuleList([UpsampleBlock(width, width // 4), UpsampleBlock(width // 4, width // 8)])
        self.out_layer = nn.Linear(width // 8, CELL_CHANNELS)
        self.mesh_extractor: Callable[..., Any] = SurfaceExtractor(config.resolution * CELLS_PER_VOXEL)
        self.chunk: int | None = CHUNK
        self.folded = True

    def decode_once(self, slat: SparseTensor) -> SparseTensor:
        first, second = self.upsample
        h = first(self.encode_tokens(slat), self.chunk, self.folded)
        return second(h, self.chunk, self.folded, last=self.out_layer)

    @torch.no_grad()
    def decode_cells(self, slat: SparseTensor) -> SparseTensor:
        """The fields of the cells of each voxel.

        Args:
            slat: N voxels with latent_channels features.

        Returns:
            64 N cells of the fine grid in the order of two subdivisions, with CELL_CHANNELS float32 features.
        """
        return self.decode_finite(slat)

    def forward(self, slat: SparseTensor) -> list[Any]:
        """One mesh per object."""
        cells = self.decode_cells(slat)
        return [self.mesh_extractor(cells[i], training=False) for i in range(cells.shape[0])]
