"""Maps of points to tokens: one token for each window of 8x8 points.

Facts from sam3d_objects/model/backbone/dit/embedder/pointmap.py; its idea is that of Wu et al., "Multiview
Compressive Coding for 3D Reconstruction".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model.config import _divides, _positive
from fast_sam3d.native.vit import Block

__all__ = ["PointPatchEmbed", "PointSettings"]

HEADS: Final = 16
MLP_RATIO: Final = 2.0


@dataclass(frozen=True)
class PointSettings:
    """Sizes of a `PointPatchEmbed`; by default the published ones.

    Args:
        size: points along an edge of the map, after resizing.
        patch: points along an edge of a window.
    """

    channels: int = 512
    size: int = 256
    patch: int = 8

    def __post_init__(self) -> None:
        _positive(self, "channels", "size", "patch")
        _divides(self, "patch", "size")
        if self.channels % HEADS:
            raise ValueError(f"PointSettings.channels must be a multiple of {HEADS}, got {self.channels}")


class PointPatchEmbed(nn.Module):
    """A linear layer on every point, then one transformer block in every window; its class token is the result.

    Only that token leaves the block, so that only it is a query, and only it goes through the MLP: `class_token_only`
    switches this saving off for comparison.

    Args:
        chunk: windows that go through the block at once, each with 0.5 MB in float32 at the published sizes; None: all.
    """

    class_token_only: bool = True

    def __init__(self, settings: PointSettings | None = None, chunk: int | None = 256) -> None:
        super().__init__()
        self.settings = settings = settings or PointSettings()
        self.chunk = chunk
        self.embed_dim = c = settings.channels
        cells = settings.size // settings.patch
        self.point_proj = nn.Linear(3, c)
        self.invalid_xyz_token = nn.Parameter(torch.randn(c) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, c, cells, cells) * 0.02)
        self.pos_embed_window = nn.Parameter(torch.randn(1, 1 + settings.patch**2, c) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(1, 1, c) * 0.02)
        self.blocks = nn.ModuleList([Block(c, HEADS, MLP_RATIO, gains=False)])

    def forward(self, points: Tensor) -> Tensor:
        """Tokens of a map.

        Args:
            points: [B, 3, H, W]; not finite where unknown.

        Returns:
            [B, windows, C], row by row.
        """
        size, patch = self.settings.size, self.settings.patch
        points = F.interpolate(points, size=size, mode="nearest")
        cells = points.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, 3, rows, patch, columns, patch]
        windows = cells.permute(0, 2, 4, 3, 5, 1).reshape(-1, patch * patch, 3)
        tokens = torch.cat(list(self._class_tokens(windows)))
        return tokens.unflatten(0, (len(points), -1)) + self.pos_embed.flatten(2).transpose(1, 2)

    def _class_tokens(self, windows: Tensor) -> Iterator[Tensor]:
        """[windows, points, 3] -> the class tokens [windows, C], in chunks."""
        for part in windows.split(self.chunk or len(windows)):
            known = part.isfinite().all(dim=-1, keepdim=True)
            x = self.point_proj(torch.where(known, part, 0.0))
            x = torch.where(known, x, self.invalid_xyz_token.to(x.dtype))
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed_window
            (block,) = self.blocks
            yield block(x, queries=1 if self.class_token_only else None)[:, 0]
