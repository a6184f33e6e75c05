"""Decoders of the structured latent: a windowed sparse transformer, then a mesh or gaussians."""

from __future__ import annotations

import math
from itertools import product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import CHILDREN, SparseGrid
from fast_sam3d.model.extract import MeshExtractor, MeshResult
from fast_sam3d.model.gaussian import SH_C0, Gaussians
from fast_sam3d.model.layers import init_linears
from fast_sam3d.model.slat_config import (
    CELLS_PER_AXIS,
    CELLS_PER_VOXEL,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SLatTrunkConfig,
)
from fast_sam3d.model.sparse import SparseConv3d, SparseTensor, subdivide
from fast_sam3d.model.sparse_transformer import WindowBlock, require_voxels, voxel_positions

_PLACES = [
    tuple(2 * a + b for a, b in zip(first, second, strict=True)) for first, second in product(CHILDREN, CHILDREN)
]
CELL_ORDER = tuple(_PLACES.index(cell) for cell in product(range(CELLS_PER_AXIS), repeat=3))
"""Row of each fine cell, row-major in (x, y, z), among the 64 rows of its voxel after two subdivisions."""

FIELD_CHANNELS = 4
"""Signed distance and colour."""


class SLatTrunk(nn.Module):
    """Windowed transformer over the voxels; the windows of every other block are shifted by half a window.

    Args:
        config: sizes.
    """

    built_in_savings: ClassVar[tuple[str, ...]] = ("attention",)
    affine_norms: ClassVar = True

    def __init__(self, config: SLatTrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.resolution = config.resolution
        self.model_channels = config.model_channels
        self.num_heads = config.num_heads
        self.input_layer = nn.Linear(config.latent_channels, config.model_channels)
        sizes = config.model_channels, config.num_heads, config.mlp_ratio, config.window_size
        half = config.window_size // 2
        self.blocks = nn.ModuleList(
            WindowBlock(*sizes, half * (i % 2), self.affine_norms) for i in range(config.num_blocks)
        )

    def encode_tokens(self, slat: SparseTensor) -> SparseTensor:
        """[N, latent_channels] -> [N, model_channels], normalised."""
        require_voxels(slat.grid.counts)
        h = slat.replace(self.input_layer(slat.feats))
        h = h + voxel_positions(h.coords, self.model_channels, h.device).to(h.dtype)
        for block in self.blocks:
            h = block(h)
        return h.replace(F.layer_norm(h.feats, h.feats.shape[-1:]))


class SubdivideBlock(nn.Module):
    """Each voxel becomes eight, refined by two sparse convolutions next to a linear skip connection.

    Departures from the public design, at the same cost: norms are per voxel, not over the object, so that decoding is
    local and training on patches equals training on objects; and each of the eight children has its own skip weights,
    as shared ones would distinguish children only through their neighbours.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.norm2 = nn.LayerNorm(out_channels, eps=1e-6)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.skip_connection = nn.Linear(channels, 8 * out_channels)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """N voxels -> 8 N voxels; rows 8 n .. 8 n + 7 are the children of voxel n."""
        grid = x.grid.subdivided()
        h = self.widen(x.replace(F.silu(self.norm1(x.feats))), grid)
        h = self.conv2(h.replace(F.silu(self.norm2(h.feats))))
        return h + self.skip_connection(x.feats).view(len(grid), -1)

    def widen(self, x: SparseTensor, grid: SparseGrid) -> SparseTensor:
        """The first convolution, on the subdivided `grid` of N voxels with their parents' features."""
        return self.conv1(subdivide(x, grid))


class MeshDecoder(SLatTrunk):
    """Structured latent to a signed-distance and colour field at four times the resolution, and its mesh.

    In addition to the subdividing convolutions, a linear layer maps a voxel's token to its 64 cells. Without it, colour
    was not learned within 600 steps, because distance dominates the gradients of the shared layers; with it, 72 steps
    explain 96 % of the colour's variance, for 0.1 % of the operations.

    Args:
        config: sizes.
    """

    config: MeshDecoderConfig

    def __init__(self, config: MeshDecoderConfig) -> None:
        super().__init__(config)
        first, second = config.upsample_channels
        self.upsample = nn.ModuleList([SubdivideBlock(config.model_channels, first), SubdivideBlock(first, second)])
        self.out_layer = nn.Linear(second, config.out_channels)
        self.cells_layer = nn.Linear(config.model_channels, CELLS_PER_VOXEL * FIELD_CHANNELS)
        self.mesh_extractor = MeshExtractor(config.resolution * CELLS_PER_AXIS, config.min_component)
        init_linears(self)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.cells_layer.weight)

    def decode_fields(self, slat: SparseTensor) -> SparseTensor:
        """The field on the fine cells of the active voxels.

        Args:
            slat: N voxels with latent_channels features.

        Returns:
            64 N voxels of the fine grid (not sorted within an object, see CELL_ORDER) with out_channels features:
            0 signed distance in voxels, negative inside; 1..3 colour in 0..1.
        """
        h = self.encode_tokens(slat)
        direct = self.cells_layer(h.feats).view(-1, FIELD_CHANNELS)
        for block in self.upsample:
            h = block(h)
        out = self.out_layer(h.feats)
        out = torch.cat([out[:, :FIELD_CHANNELS] + direct, out[:, FIELD_CHANNELS:]], dim=1)
        return h.replace(torch.cat([out[:, :1], out[:, 1:4].sigmoid(), out[:, 4:]], dim=1))

    def fields_per_voxel(self, slat: SparseTensor) -> tuple[Tensor, Tensor]:
        """The field in the order of the training samples: distance [N, 64] and colour [N, 64, 3]."""
        feats = self.decode_fields(slat).feats.view(len(slat), CELLS_PER_VOXEL, -1)
        feats = feats[:, list(CELL_ORDER)]
        return feats[..., 0], feats[..., 1:4]

    def forward(self, slat: SparseTensor) -> list[MeshResult]:
        """One mesh per object."""
        fields = self.decode_fields(slat)
        return [self.mesh_extractor(fields[i]) for i in range(fields.shape[0])]


class GaussianDecoder(SLatTrunk):
    """Structured latent to a few gaussians per voxel.

    Args:
        config: sizes.
    """

    config: GaussianDecoderConfig
    # Outputs of each gaussian: offset, colour, log-scale, rotation, opacity.
    LAYOUT = (3, 3, 3, 4, 1)

    def __init__(self, config: GaussianDecoderConfig) -> None:
        super().__init__(config)
        self.num_gaussians = config.num_gaussians
        self.out_channels = config.num_gaussians * sum(self.LAYOUT)
        self.out_layer = nn.Linear(config.model_channels, self.out_channels)
        init_linears(self)
        nn.init.zeros_(self.out_layer.weight)

    def decode_attributes(self, slat: SparseTensor) -> dict[str, Tensor]:
        """Attributes of the gaussians of each voxel.

        Returns:
            xyz [N, n, 3] in -0.5..0.5 plus reach, rgb [N, n, 3] (unbounded, meant for 0..1), log_scaling [N, n, 3]
            (log of the standard deviation in object units), rotation [N, n, 4] wxyz of any length, opacity_logit
            [N, n, 1].
        """
        h = self.encode_tokens(slat).feats
        out = self.out_layer(h).float().view(len(slat), self.num_gaussians, -1)
        offset, colour, scaling, rotation, opacity = out.split(self.LAYOUT, dim=2)
        centre = (slat.coords[:, None, 1:].to(out.device).float() + 0.5) / self.resolution - 0.5
        identity = torch.tensor([1.0, 0.0, 0.0, 0.0], device=out.device)
        return {
            "xyz": centre + offset.tanh() * (self.config.reach / self.resolution),
            "rgb": 0.5 + colour,
            "log_scaling": scaling + math.log(0.25 / self.resolution),
            "rotation": rotation + identity,
            "opacity_logit": opacity + 2.0,
        }

    def forward(self, slat: SparseTensor) -> list[Gaussians]:
        """One set of gaussians per object."""
        values = self.decode_attributes(slat)
        return [
            Gaussians.from_values(
                xyz=values["xyz"][rows].flatten(0, 1),
                features_dc=(values["rgb"][rows].flatten(0, 1)[:, None] - 0.5) / SH_C0,
                log_scaling=values["log_scaling"][rows].flatten(0, 1),
                rotation=values["rotation"][rows].flatten(0, 1),
                opacity_logit=values["opacity_logit"][rows].flatten(0, 1),
            )
            for rows in slat.layout
        ]
