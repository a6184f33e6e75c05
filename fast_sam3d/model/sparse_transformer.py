"""Transformer layers over the voxels of objects of different sizes, without masks or padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import Windows
from fast_sam3d.model.layers import ContextProjections, FeedForward, HeadRMSNorm, LayerNorm32, attend, position_code
from fast_sam3d.model.sparse import SparseTensor


def voxel_positions(coords: Tensor, channels: int, device: torch.device, sin_first: bool = False) -> Tensor:
    """Fixed position code of voxels.

    Args:
        coords: [N, 4] int32, (batch, x, y, z).
        channels, sin_first: as for `position_code`.

    Returns:
        [N, channels] float32 on `device`.
    """
    return position_code(coords[:, 1:].to(device), channels, sin_first)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """[N, C] -> [H, N, C / H]."""
    return x.view(x.shape[0], num_heads, -1).transpose(0, 1)


class ObjectAttention(nn.Module):
    """Full self-attention among the voxels of each object."""

    def __init__(self, channels: int, num_heads: int, qk_rms_norm: bool = False, floor: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk_rms_norm = qk_rms_norm
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = HeadRMSNorm(num_heads, channels // num_heads, floor)
            self.k_rms_norm = HeadRMSNorm(num_heads, channels // num_heads, floor)

    def forward(self, x: SparseTensor) -> SparseTensor:
        q, k, v = (_heads(part, self.num_heads) for part in self.to_qkv(x.feats).chunk(3, dim=1))
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q[None])[0], self.k_rms_norm(k[None])[0]
        # One call per object: a mask over all of them would cost the square of their total size.
        rows = [attend(q[None, :, r], k[None, :, r], v[None, :, r])[0] for r in x.layout]
        attended = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        return x.replace(self.to_out(attended.transpose(0, 1).flatten(1)))


class ContextAttention(ContextProjections):
    """Attention of each object's voxels to its own context tokens."""

    def forward(self, x: SparseTensor, context: Tensor) -> SparseTensor:
        """x: N voxels of B objects, context: [B, L, context_channels]."""
        if context.shape[1] == 1 < len(x):
            return x.replace(per_voxel(self.of_one(context)[:, 0], x).expand(len(x), -1))
        q = _heads(self.to_q(x.feats), self.num_heads)
        k, v = self.keys_and_values(context).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q[None])[0], self.k_rms_norm(k)
        rows = [attend(q[None, :, r], k[b : b + 1], v[b : b + 1])[0] for b, r in enumerate(x.layout)]
        attended = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        return x.replace(self.to_out(attended.transpose(0, 1).flatten(1)))


class WindowAttention(nn.Module):
    """Self-attention within cubes of voxels of one object.

    Args:
        channels: width of the tokens.
        num_heads: attention heads.
        window_size: edge of a cube in voxels.
        shift: offset of the cubes in voxels along each axis.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        windows = x.grid.windows(self.window_size, self.shift)
        qkv = self.to_qkv(x.feats).index_select(0, windows.order.to(x.device))
        attended = self._attend(qkv, windows).index_select(0, windows.inverse.to(x.device))
        return x.replace(self.to_out(attended))

    def _attend(self, qkv: Tensor, windows: Windows) -> Tensor:
        """[N, 3 C] in window order -> [N, C], one call per window size."""
        ends = accumulate(count * size for count, size in windows.groups)
        parts = []
        for (count, size), end in zip(windows.groups, ends, strict=True):
            group = qkv[end - count * size : end].view(count, size, 3, self.num_heads, -1)
            q, k, v = group.permute(2, 0, 3, 1, 4).unbind(0)
            out = attend(q, k, v)
            parts.append(out.transpose(1, 2).reshape(count * size, -1))
        return torch.cat(parts)


class WindowBlock(nn.Module):
    """Pre-norm block: window attention, then MLP. affine: norms have weights."""

    def __init__(
        self, channels: int, num_heads: int, mlp_ratio: float, window_size: int, shift: int, affine: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=affine)
        self.attn = WindowAttention(channels, num_heads, window_size, shift)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=affine)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        x = x + self.attn(x.replace(self.norm1(x.feats)))
        return x.replace(x.feats + self.mlp(self.norm2(x.feats)))


class ModulatedCrossBlock(nn.Module):
    """Self-attention, cross-attention and MLP over voxels; the first and the last are time-modulated (adaLN).

    Args:
        channels: width of the tokens.
        context_channels: width of the context tokens.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over channels.
        share_mod: the modulation is an input instead of the output of a layer of this block.
        qk_rms_norm, qk_rms_norm_cross: RMS-normalise queries and keys of self- and cross-attention.
        published: norms as in the published network (`fast_sam3d.model.config.Convention`).
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        num_heads: int,
        mlp_ratio: float,
        share_mod: bool,
        qk_rms_norm: bool,
        qk_rms_norm_cross: bool,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.share_mod = share_mod
        norm = LayerNorm32 if published else nn.LayerNorm
        self.norm1 = norm(channels, elementwise_affine=False, eps=1e-6)
        self.norm2 = norm(channels, eps=1e-6)
        self.norm3 = norm(channels, elementwise_affine=False, eps=1e-6)
        self.self_attn = ObjectAttention(channels, num_heads, qk_rms_norm, not published)
        self.cross_attn = ContextAttention(channels, context_channels, num_heads, qk_rms_norm_cross, not published)
        self.mlp = FeedForward(channels, mlp_ratio)
        if share_mod:
            # Blocks share the modulation by the time, plus one offset per block.
            self.modulation_offset = nn.Parameter(torch.zeros(6 * channels))
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))

    def forward(self, x: SparseTensor, emb: Tensor, context: Tensor) -> SparseTensor:
        """emb: [B, C] time embedding, or [B, 6 C] modulation under share_mod; context: [B, L, context_channels]."""
        emb = emb + self.modulation_offset if self.share_mod else self.adaLN_modulation(emb)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = per_voxel(emb, x).chunk(6, dim=1)
        h = self.self_attn(x.replace(self.norm1(x.feats) * (1 + scale_attn) + shift_attn))
        x = x + h * gate_attn
        x = x + self.cross_attn(x.replace(self.norm2(x.feats)), context)
        h_feats = self.mlp(self.norm3(x.feats) * (1 + scale_mlp) + shift_mlp)
        return x.replace(x.feats + h_feats * gate_mlp)


def per_voxel(values: Tensor, x: SparseTensor) -> Tensor:
    """One row per object to one row per voxel; a single row is left to broadcasting.

    Args:
        values: [B, C], or [1, C] for all objects.

    Returns:
        [N, C] or [1, C].
    """
    return values if values.shape[0] == 1 else values.index_select(0, x.grid.batch_index(values.device))


def require_voxels(sizes: Sequence[int]) -> None:
    """Raise ValueError if a batch, or an object in it, has no voxels."""
    if not sizes or min(sizes) == 0:
        raise ValueError(f"every object needs at least one active voxel, got {list(sizes)} per object")
