"""Structured-latent backbone: sparse convolutions around a transformer over 2x2x2-packed voxels."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.contexts import ConditionedNetwork
from fast_sam3d.model.layers import LayerNorm32, TimestepEmbedder, init_linears
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.model.sparse import SparseConv3d, SparseDownsample, SparseTensor, SparseUpsample
from fast_sam3d.model.sparse_transformer import ModulatedCrossBlock, per_voxel, require_voxels, voxel_positions


class SparseResBlock(nn.Module):
    """Two sparse convolutions with a skip connection and time modulation, after an optional resampling.

    Args:
        channels: of the input.
        emb_channels: of the time embedding.
        out_channels: of the output.
        resample: "down" packs 2x2x2 voxels first, "up" unpacks them first, None does neither.
        published: norms and packing as in the published network (`fast_sam3d.model.config.Convention`).
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int,
        resample: str | None = None,
        published: bool = False,
    ) -> None:
        super().__init__()
        if resample == "down":
            self.updown: nn.Module = SparseDownsample(extra=int(published))
        else:
            self.updown = SparseUpsample() if resample == "up" else nn.Identity()
        norm = LayerNorm32 if published else nn.LayerNorm
        self.norm1 = norm(channels, eps=1e-6)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.norm2 = norm(out_channels, elementwise_affine=False, eps=1e-6)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.skip_connection = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: SparseTensor, emb: Tensor) -> SparseTensor:
        """x: N voxels of B objects, emb: [B or 1, emb_channels]."""
        x = self.updown(x)
        scale, shift = per_voxel(self.emb_layers(emb), x).chunk(2, dim=1)
        h = self.conv1(x.replace(F.silu(self.norm1(x.feats))))
        h = self.conv2(h.replace(F.silu(self.norm2(h.feats) * (1 + scale) + shift)))
        return h + self.skip_connection(x.feats)


class StructuredLatentFlow(ConditionedNetwork):
    """Velocity of the structured latent of a batch of objects.

    `num_io_blocks` sparse residual blocks, the last of which packs 2x2x2 voxels into one token; a transformer with full
    attention among the tokens of each object and cross-attention to the image; then the mirrored blocks with skip
    connections.

    Source: the flow transformer for structured latents of TRELLIS (Xiang et al., 2024), section 3.3.

    Args:
        config: sizes.
    """

    half_parts = ("input_blocks", "blocks", "out_blocks")
    """The parts whose linear layers and convolutions the published pipeline stores in half precision; they then
    compute in it, autocast or not."""

    def __init__(self, config: SLatFlowConfig) -> None:
        super().__init__()
        self.config = config
        published = config.convention == "published"
        self.resolution = config.resolution
        self.in_channels = self.out_channels = config.latent_channels
        self.model_channels = config.model_channels
        self.num_heads = config.num_heads
        self.share_mod = config.share_mod
        width, io = config.model_channels, config.io_channels

        if config.share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.input_layer = nn.Linear(config.latent_channels, io)
        flat = config.num_io_blocks - 1
        res_block = partial(SparseResBlock, published=published)
        self.input_blocks = nn.ModuleList(
            [*(res_block(io, width, io) for _ in range(flat)), res_block(io, width, width, "down")]
        )
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                width,
                config.cond_channels,
                config.num_heads,
                config.mlp_ratio,
                config.share_mod,
                config.qk_rms_norm,
                config.qk_rms_norm_cross,
                published,
            )
            for _ in range(config.num_blocks)
        )
        self.out_blocks = nn.ModuleList(
            [res_block(2 * width, width, io, "up"), *(res_block(2 * io, width, io) for _ in range(flat))]
        )
        self.out_layer = nn.Linear(io, config.latent_channels)
        init_linears(self)
        self.t_embedder = TimestepEmbedder(width)  # has its own initialisation
        # Blocks start as the identity, the velocity as zero.
        for owner in [self] if config.share_mod else self.blocks:
            nn.init.zeros_(owner.get_parameter("adaLN_modulation.1.weight"))
        nn.init.zeros_(self.out_layer.weight)

    def forward(
        self, x: Tensor, t: Tensor, cond: Tensor, coords: Tensor | np.ndarray | SparseGrid, cfg: bool = False
    ) -> Tensor:
        """Velocity at time t.

        Args:
            x: [1, N, latent_channels] float32, the voxels of all objects.
            t: [] or [B], 0..1000.
            cond: [B, L, cond_channels] context tokens, or [1, L, cond_channels] for all objects.
            coords: [N, 4] int, (batch, x, y, z), sorted by batch; or a grid, whose neighbour pairs are then reused.
            cfg: unconditional call of classifier-free guidance: the context is multiplied by 0.

        Returns:
            [1, N, latent_channels], dtype of x.

        Raises:
            ValueError: unsorted coords, or another number of coords or contexts than x has.
        """
        if x.ndim != 3 or x.shape[0] != 1 or x.shape[2] != self.in_channels:
            raise ValueError(f"x must be [1, N, {self.in_channels}], got {list(x.shape)}")
        voxels = SparseTensor(x[0], self.grid(coords, x.device))
        require_voxels(voxels.grid.counts)
        if cond.shape[0] not in (1, voxels.grid.batch_size):
            raise ValueError(f"{cond.shape[0]} contexts for {voxels.grid.batch_size} objects")
        context = self.context(cond, cfg)
        if voxels.grid.batch_size > context.shape[0]:
            context = context.expand(voxels.grid.batch_size, -1, -1)

        kind = self.torso_dtype
        emb = self.t_embedder(t)
        h = voxels.replace(self.input_layer(voxels.feats))
        if kind is not torch.float32:
            emb, h = emb.to(kind), h.type(kind)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h.feats)
        sin_first = self.config.convention == "published"
        h = h + voxel_positions(h.coords, self.model_channels, h.device, sin_first).to(h.dtype)
        mod = self.adaLN_modulation(emb) if self.share_mod else emb
        for block in self.blocks:
            h = block(h, mod, context)
        for block, skip in zip(self.out_blocks, reversed(skips), strict=True):
            h = block(h.replace(torch.cat([h.feats, skip], dim=1)), emb)
        feats = h.feats if kind is torch.float32 else h.feats.float()
        out = self.out_layer(F.layer_norm(feats, feats.shape[-1:]))
        return out.to(x.dtype)[None]

    @property
    def built_in_savings(self) -> tuple[str, ...]:
        return ("attention", *super().built_in_savings)

    @property
    def torso_dtype(self) -> torch.dtype:
        """The type of the weights of `half_parts`."""
        return self.get_parameter("blocks.0.self_attn.to_out.weight").dtype

    def _cast(self, cond: Tensor) -> Tensor:
        return cond.to(self.torso_dtype)
