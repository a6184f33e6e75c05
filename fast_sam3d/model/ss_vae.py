"""Sparse-structure autoencoder between occupancy grid and latent grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fast_sam3d.model.config import SSDecoderConfig, SSEncoderConfig


def fold_cells(x: Tensor, p: int) -> Tensor:
    """[B, C, pR, pR, pR] -> [B, C p**3, R, R, R]: p**3 voxels of a cell become channels."""
    b, c, n = x.shape[:3]
    r = n // p
    x = x.reshape(b, c, r, p, r, p, r, p).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * p**3, r, r, r)


def unfold_cells(x: Tensor, p: int) -> Tensor:
    """Inverse of `fold_cells`."""
    b, c, r = x.shape[:3]
    x = x.reshape(b, c // p**3, p, p, p, r, r, r).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // p**3, r * p, r * p, r * p)


def tokens_to_grid(tokens: Tensor) -> Tensor:
    """Shape leaf [B, R**3, C], row-major in x, y, z -> latent grid [B, C, R, R, R]."""
    batch, count, channels = tokens.shape
    edge = round(count ** (1 / 3))
    if edge**3 != count:
        raise ValueError(f"{count} shape tokens do not form a cubic grid")
    return tokens.transpose(1, 2).reshape(batch, channels, edge, edge, edge)


def grid_to_tokens(grid: Tensor) -> Tensor:
    """Inverse of `tokens_to_grid`."""
    return grid.flatten(2).transpose(1, 2)


class ResidualBlock3d(nn.Module):
    """Twice norm, SiLU and 3x3x3 convolution, plus the input; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        return x + self.conv2(self.act(self.norm2(h)))


class SSEncoder(nn.Module):
    """Occupancy to the mean and log-variance of its latent."""

    def __init__(self, config: SSEncoderConfig | None = None) -> None:
        super().__init__()
        config = config or SSEncoderConfig()
        self.config = config
        c = config.model_channels
        self.input_layer = nn.Conv3d(config.patch_size**3, c, 1)
        self.blocks = nn.ModuleList([ResidualBlock3d(c) for _ in range(config.num_res_blocks)])
        self.out_layer = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv3d(c, 2 * config.latent_channels, 1))

    def forward(self, occupancy: Tensor) -> tuple[Tensor, Tensor]:
        """occupancy: [B, 1, R, R, R] of 0 and 1 -> mean and logvar, each [B, latent_channels, r, r, r]."""
        h = self.input_layer(fold_cells(occupancy, self.config.patch_size))
        for block in self.blocks:
            h = block(h)
        mean, logvar = self.out_layer(h).chunk(2, dim=1)
        # Bounded to keep exp() finite early in training.
        return mean, logvar.clamp(-20.0, 10.0)


class SSDecoder(nn.Module):
    """Latent to occupancy logits; a voxel is occupied where its logit is positive."""

    def __init__(self, config: SSDecoderConfig | None = None) -> None:
        super().__init__()
        config = config or SSDecoderConfig()
        self.config = config
        c, p, fine = config.model_channels, config.patch_size, config.refine_channels
        self.input_layer = nn.Conv3d(config.latent_channels, c, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock3d(c) for _ in range(config.num_res_blocks)])
        self.out_layer = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv3d(c, 8 * fine if fine else p**3, 1))
        if fine:
            self.refine = nn.Sequential(
                nn.SiLU(), nn.Conv3d(fine, fine, 3, padding=1), nn.SiLU(), nn.Conv3d(fine, (p // 2) ** 3, 1)
            )

    def forward(self, latent: Tensor) -> Tensor:
        """latent: [B, latent_channels, r, r, r] -> logits [B, 1, R, R, R]."""
        h = self.input_layer(latent)
        for block in self.blocks:
            h = block(h)
        h = self.out_layer(h)
        if not self.config.refine_channels:
            return unfold_cells(h, self.config.patch_size)
        return unfold_cells(self.refine(unfold_cells(h, 2)), self.config.patch_size // 2)


def sample_latent(mean: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Reparameterised sample of the encoder's Gaussian; same shape as mean."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * (0.5 * logvar).exp()
