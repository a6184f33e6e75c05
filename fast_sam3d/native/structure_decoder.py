"""The published decoder of sparse structures: a latent grid to the occupancy of a grid four times as fine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model.config import LARGEST

__all__ = ["StructureDecoder", "StructureDecoderConfig"]

MOST_RESOLUTIONS: Final = 5
"""Of the structure decoder; each has eight times the cells of the one before. The published one has three."""


@dataclass(frozen=True)
class StructureDecoderConfig:
    """Sizes of the structure decoder; the defaults are the published ones.

    Args:
        latent_channels: of the latent grid.
        channels: width at each resolution, the coarsest first; from one to the next the grid doubles.
        num_res_blocks: residual blocks at each resolution.
        num_res_blocks_middle: residual blocks before these.
        out_channels: logits of each cell.
    """

    latent_channels: int = 8
    channels: tuple[int, ...] = (512, 128, 32)
    num_res_blocks: int = 2
    num_res_blocks_middle: int = 2
    out_channels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        sizes = (self.latent_channels, *self.channels, self.num_res_blocks, self.out_channels)
        if not self.channels or min(sizes) < 1 or self.num_res_blocks_middle < 0:
            raise ValueError(f"sizes of the structure decoder must be positive, got {self}")
        if len(self.channels) > MOST_RESOLUTIONS or max(self.channels) > LARGEST:
            raise ValueError(f"channels must be at most {MOST_RESOLUTIONS} widths of at most {LARGEST}")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a dense grid [B, C, ...], in float32, in the type of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float().movedim(1, -1)).movedim(-1, 1).to(x.dtype).contiguous()


class ResBlock(nn.Module):
    """Two convolutions next to the identity, each behind a norm and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Upsample(nn.Module):
    """A convolution to the eight children of each cell."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, X, Y, Z] -> [B, out_channels, 2 X, 2 Y, 2 Z]."""
        children = self.conv(x).unflatten(1, (-1, 2, 2, 2))  # [B, C, 2, 2, 2, X, Y, Z]
        return children.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class StructureDecoder(nn.Module):
    """Latent grid to logits of occupancy; a cell is active where its logit is positive.

    The state dict has the names of the published file. Source: the stock class
    (sam3d_objects/model/backbone/tdfy_dit/models/sparse_structure_vae.py, `SparseStructureDecoder`).

    Args:
        config: sizes.
    """

    def __init__(self, config: StructureDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.known: Tensor | None = None
        """Logits that are returned instead of being computed, where a run is repeated."""
        widths = config.channels
        self.input_layer = nn.Conv3d(config.latent_channels, widths[0], 3, padding=1)
        self.middle_block = nn.Sequential(*(ResBlock(widths[0]) for _ in range(config.num_res_blocks_middle)))
        blocks: list[nn.Module] = []
        for width, following in zip(widths, (*widths[1:], None), strict=True):
            blocks += [ResBlock(width) for _ in range(config.num_res_blocks)]
            blocks += [] if following is None else [Upsample(width, following)]
        self.blocks = nn.Sequential(*blocks)
        self.out_layer = nn.Sequential(
            ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], config.out_channels, 3, padding=1)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """[B, latent_channels, R, R, R] -> [B, out_channels, S, S, S] with S = R * 2 ** (resolutions - 1).

        Under autocast, features that pass by a residual block stay in float32.
        """
        if self.known is not None:
            return self.known
        h = self.input_layer(latent).float()
        h = self.blocks(self.middle_block(h))
        return self.out_layer(h.to(latent.dtype))
