"""Maps between latent leaves and transformer tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model.layers import grid_positions, init_linears


def grid_patches(x: Tensor, edge: int) -> Tensor:
    """Blocks of edge**3 neighbouring cells: [B, R**3, C] -> [B, (R / edge)**3, edge**3 * C], all row-major."""
    if edge == 1:
        return x
    r = round(x.shape[1] ** (1 / 3)) // edge
    blocks = x.reshape(x.shape[0], r, edge, r, edge, r, edge, -1).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return blocks.reshape(x.shape[0], r**3, -1)


def patches_to_grid(x: Tensor, edge: int) -> Tensor:
    """Inverse of `grid_patches`."""
    if edge == 1:
        return x
    r = round(x.shape[1] ** (1 / 3))
    cells = x.reshape(x.shape[0], r, r, r, edge, edge, edge, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cells.reshape(x.shape[0], (r * edge) ** 3, -1)


class Latent(nn.Module):
    """One latent leaf: linear layer plus position code as input, norm plus linear layer as output.

    The output layer starts at zero, so an untrained network's velocity is zero.

    Args:
        tokens: tokens of the leaf.
        channels: channels of the leaf.
        model_channels: width of the stream.
    """

    def __init__(self, tokens: int, channels: int, model_channels: int) -> None:
        super().__init__()
        self.latent_shape = (tokens, channels)
        self._build(tokens, channels, model_channels)
        self.pos_emb = nn.Parameter(torch.randn(tokens, model_channels))

    def _build(self, stream_tokens: int, in_features: int, model_channels: int) -> None:
        self.stream_tokens = stream_tokens
        self.input_layer = nn.Linear(in_features, model_channels)
        self.out_layer = nn.Linear(model_channels, in_features)
        init_linears(self)
        nn.init.zeros_(self.out_layer.weight)

    def to_input(self, x: Tensor) -> Tensor:
        """x: [B, *latent_shape] -> [B, stream_tokens, model_channels]."""
        return self.input_layer(x) + self.pos_emb

    def to_output(self, h: Tensor) -> Tensor:
        """h: [B, stream_tokens, model_channels] -> [B, *latent_shape]."""
        return self.out_layer(F.layer_norm(h, h.shape[-1:]))


class GridLatent(Latent):
    """A leaf that is a cubic grid, row-major in x, y, z; patch_size**3 neighbouring cells share one token.

    With patch_size 1 this is the stock latent, and `pos_emb.shape[0]` and `input_layer.in_features` are the leaf's
    shape. With larger patches they are the tokens' shape, and `latent_shape` is the leaf's.

    Args:
        resolution: cells along each axis.
        channels: channels of the leaf.
        model_channels: width of the stream.
        patch_size: must divide resolution.
        published: the position code has the sine first, and is part of the state dict.
    """

    def __init__(
        self, resolution: int, channels: int, model_channels: int, patch_size: int = 1, published: bool = False
    ) -> None:
        nn.Module.__init__(self)
        self.latent_shape = (resolution**3, channels)
        self.patch_size = patch_size
        self.cells = resolution // patch_size
        self._build(self.cells**3, channels * patch_size**3, model_channels)
        code = grid_positions(self.cells, model_channels, sin_first=published)
        self.register_buffer("pos_emb", code, persistent=published)

    def to_input(self, x: Tensor) -> Tensor:
        return super().to_input(grid_patches(x, self.patch_size))

    def to_output(self, h: Tensor) -> Tensor:
        return patches_to_grid(super().to_output(h), self.patch_size)
