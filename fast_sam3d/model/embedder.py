"""Condition embedder: a crop of colour, mask and points to context tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fast_sam3d.model.config import EmbedderConfig
from fast_sam3d.model.layers import TransformerBlock, grid_positions, init_linears


class ConditionEmbedder(nn.Module):
    """A small transformer over the patches of a 7-channel crop and one token for the crop's descriptor.

    Args:
        config: sizes.
    """

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        super().__init__()
        config = config or EmbedderConfig()
        self.config = config
        c, p = config.model_channels, config.patch_size
        self.patch_embed = nn.Linear(config.in_channels * p * p, c)
        if config.descriptor_channels:
            self.descriptor_embed = nn.Sequential(nn.Linear(config.descriptor_channels, c), nn.SiLU(), nn.Linear(c, c))
        self.blocks = nn.ModuleList(
            [TransformerBlock(c, config.num_heads, config.mlp_ratio) for _ in range(config.num_blocks)]
        )
        self.norm = nn.LayerNorm(c)
        init_linears(self)
        self.register_buffer("pos_emb", grid_positions(config.image_size // p, c, dims=2), persistent=False)

    def forward(self, image: Tensor, mask: Tensor, pointmap: Tensor, descriptor: Tensor | None = None) -> Tensor:
        """Context tokens of a batch of crops.

        Args:
            image: [B, 3, S, S] in 0..1.
            mask: [B, 1, S, S] in 0..1.
            pointmap: [B, 3, S, S] normalised camera-frame points, 0 where unknown.
            descriptor: [B, descriptor_channels] position of the crop in the picture; None means zeros.

        Returns:
            [B, num_tokens, model_channels]: patches row by row, then the descriptor's token.
        """
        size, p = self.config.image_size, self.config.patch_size
        # Soft bounds: the object lies within two scene scales, but the floor behind it reaches far.
        crop = torch.cat([2 * image - 1, 2 * mask - 1, torch.tanh(pointmap / 2)], dim=1)
        if crop.shape[1:] != (self.config.in_channels, size, size):
            raise ValueError(f"crops must be [B, {self.config.in_channels}, {size}, {size}], got {list(crop.shape)}")
        batch, cells = crop.shape[0], size // p
        patches = crop.view(batch, -1, cells, p, cells, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, cells * cells, -1)
        tokens = self.patch_embed(patches) + self.pos_emb
        if self.config.descriptor_channels:
            if descriptor is None:
                descriptor = crop.new_zeros(batch, self.config.descriptor_channels)
            tokens = torch.cat([tokens, self.descriptor_embed(descriptor)[:, None].to(tokens.dtype)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
