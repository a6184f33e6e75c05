"""A vision transformer with the parameter names of the DINOv2 files.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", and Darcet et al., "Vision Transformers
Need Registers". Facts from dinov2/models/vision_transformer.py and dinov2/hub/backbones.py (facebookresearch/dinov2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.model.config import _divides, _positive, _within
from fast_sam3d.model.layers import attend, merge_heads, split_heads

__all__ = ["MEAN", "STD", "Block", "ViTConfig", "VisionTransformer", "resizing_device"]

_SIZES: Final = {"vits": (384, 12, 6), "vitb": (768, 12, 12), "vitl": (1024, 24, 16)}
"""Channels, blocks and heads of the networks on torch.hub."""

MEAN: Final = (0.485, 0.456, 0.406)
"""Of the pictures of ImageNet, by channel, to which those that the network sees are normalised."""
STD: Final = (0.229, 0.224, 0.225)

RESIZE_ON_HOST: Final = ("mps",)
"""Devices that cannot resize with antialiasing or, before torch 2.6, in bicubic mode."""


def resizing_device(device: torch.device) -> torch.device:
    """Where tensors of a device are resized."""
    return torch.device("cpu") if device.type in RESIZE_ON_HOST else device


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer; by default those of ViT-L/14 with registers.

    Args:
        patch: pixels of a patch's edge.
        grid: patches along an edge of the position table; positions of another grid are interpolated.
        registers: extra tokens between the class token and the patches.
        by_scale: positions are interpolated by the factor (n + 0.1) / grid without antialiasing, as in the networks
            without registers; otherwise to n patches with antialiasing.
    """

    channels: int = 1024
    blocks: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    patch: int = 14
    grid: int = 37
    registers: int = 4
    by_scale: bool = False

    def __post_init__(self) -> None:
        _positive(self, "channels", "heads", "mlp_ratio", "patch", "grid")
        _within(self, "blocks")
        _divides(self, "heads", "channels")

    @classmethod
    def named(cls, name: str) -> ViTConfig:
        """The sizes of a network by its name on torch.hub, such as "dinov2_vitl14_reg".

        Raises:
            FastSam3dError: an unknown name.
        """
        sizes = {f"dinov2_{size}14": cls(*counts, registers=0, by_scale=True) for size, counts in _SIZES.items()}
        sizes |= {f"{key}_reg": replace(config, registers=4, by_scale=False) for key, config in sizes.items()}
        if name not in sizes:
            raise FastSam3dError(f"the image encoder {name!r} is not implemented: give one of {', '.join(sizes)}")
        return sizes[name]


class Attention(nn.Module):
    """Full self-attention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """x: [B, N, C] -> [B, queries, C], of the first tokens; None: of all."""
        if queries is None:
            q, k, v = split_heads(self.qkv(x), 3, self.heads)
        else:
            weight, bias, c = self.qkv.weight, self.qkv.bias, x.shape[-1]
            (q,) = split_heads(F.linear(x[:, :queries], weight[:c], bias[:c]), 1, self.heads)
            k, v = split_heads(F.linear(x, weight[c:], bias[c:]), 2, self.heads)
        return self.proj(merge_heads(attend(q, k, v)))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Gains(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm block: self-attention, then MLP; layer norms with eps 1e-6.

    Args:
        gains: learned factors at the end of both branches.
    """

    def __init__(self, channels: int, heads: int, mlp_ratio: float, gains: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.ls1 = Gains(channels) if gains else nn.Identity()
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.ls2 = Gains(channels) if gains else nn.Identity()

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """x: [B, N, C] -> [B, queries, C], of the first tokens; None: of all."""
        x = x[:, :queries] + self.ls1(self.attn(self.norm1(x), queries))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Pictures to tokens: the class token, the registers, then the patches row by row."""

    def __init__(self, config: ViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ViTConfig()
        c = config.channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.grid**2, c) * 0.02)
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, c))
        self.mask_token = nn.Parameter(torch.zeros(1, c))  # in the files, without a use here
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, c, config.patch, config.patch)})
        self.blocks = nn.ModuleList([Block(c, config.heads, config.mlp_ratio) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(c, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """All tokens after the last block, before the final norm.

        Args:
            image: [B, 3, H, W], normalised; H and W are multiples of the patch's edge.

        Returns:
            [B, 1 + registers + H W / patch², C].
        """
        x = self._tokens(image)
        for block in self.blocks:
            x = block(x)
        return x

    def features(self, image: Tensor, blocks: int | Sequence[int]) -> list[Tensor]:
        """Patches after some blocks, with the final norm.

        Args:
            image: as of `forward`.
            blocks: the numbers of the blocks from 0, or how many of the last ones.

        Returns:
            [B, H W / patch², C] for each block, in their order.
        """
        count = len(self.blocks)
        wanted = set(range(count - blocks, count) if isinstance(blocks, int) else blocks)
        x, found = self._tokens(image), []
        for number, block in enumerate(self.blocks[: max(wanted) + 1]):
            x = block(x)
            if number in wanted:
                found.append(self.norm(x)[:, 1 + self.config.registers :])
        return found

    def _tokens(self, image: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](image)
        place = self.positions(*patches.shape[-2:])
        patches = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        x = x + place.to(x.dtype)
        if not self.config.registers:
            return x
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position codes [1, 1 + rows * columns, C] of the class token and a grid of patches."""
        grid = self.config.grid
        if rows == columns == grid:
            return self.pos_embed
        code = self.pos_embed.to(resizing_device(self.pos_embed.device), torch.float32)
        table = code[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        if self.config.by_scale:
            factors = ((rows + 0.1) / grid, (columns + 0.1) / grid)
            table = F.interpolate(table, scale_factor=factors, mode="bicubic")
        else:
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([code[:, :1], table.flatten(2).transpose(1, 2)], dim=1).to(self.pos_embed.device)
