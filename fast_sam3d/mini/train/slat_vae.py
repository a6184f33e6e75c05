"""Encoder of the structured-latent autoencoder: distance samples and colour of each voxel to its latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model.layers import init_linears
from fast_sam3d.model.slat_config import CELLS_PER_VOXEL, SLatEncoderConfig
from fast_sam3d.model.sparse import SparseConv3d, SparseTensor

SAMPLE_CHANNELS = CELLS_PER_VOXEL + 3
"""Encoder input per voxel: signed distances of its fine cells, in voxels and within -1..1, then RGB in 0..1."""

FIRST_LOG_VARIANCE = -4.0
"""Initial log variance of the posterior: with unit noise the decoder learns slowly at first."""

COLOUR_GAIN = 2.0
"""Initial gain from colour in -1..1 to the latent."""


class ResidualMLP(nn.Module):
    """x + Linear(SiLU(Linear(LayerNorm(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SLatEncoder(nn.Module):
    """Gaussian posterior of the latent of each active voxel.

    Args:
        config: sizes.
    """

    def __init__(self, config: SLatEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.input_layer = nn.Linear(SAMPLE_CHANNELS, width)
        self.blocks = nn.ModuleList(ResidualMLP(width) for _ in range(config.num_blocks))
        self.conv = SparseConv3d(width, width) if config.use_conv else None
        self.out_layer = nn.Linear(width, 2 * config.latent_channels)
        init_linears(self)
        nn.init.constant_(self.out_layer.bias[config.latent_channels :], FIRST_LOG_VARIANCE)
        if self.conv is not None:
            nn.init.zeros_(self.conv.weight)
        # Colour starts in the last three channels; from random weights it is learned long after distances have occupied
        # all channels.
        self.skip = nn.Linear(SAMPLE_CHANNELS, config.latent_channels, bias=False)
        nn.init.zeros_(self.skip.weight)
        with torch.no_grad():
            self.skip.weight[-3:, -3:] = COLOUR_GAIN * torch.eye(3)[: config.latent_channels]

    def forward(self, x: SparseTensor) -> tuple[Tensor, Tensor]:
        """x: N voxels with SAMPLE_CHANNELS features -> mean and log-variance, each [N, latent_channels]."""
        if x.feats.shape[1] != SAMPLE_CHANNELS:
            raise ValueError(f"{SAMPLE_CHANNELS} features per voxel expected, got {x.feats.shape[1]}")
        distance, colour = x.feats.split([CELLS_PER_VOXEL, 3], dim=1)
        centred = torch.cat([distance, 2 * colour - 1], dim=1)
        h = self.input_layer(centred)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == 0 and self.conv is not None:
                h = h + self.conv(x.replace(F.silu(F.layer_norm(h, h.shape[-1:])))).feats
        mean, log_variance = self.out_layer(F.layer_norm(h, h.shape[-1:])).chunk(2, dim=1)
        mean = mean + self.skip(centred)
        # Bounded to keep exp() and the KL term finite at the start of training.
        return mean, log_variance.clamp(-12.0, 6.0)
