"""Dense transformer layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(values: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Cosines and sines of `values` at geometrically spaced frequencies.

    Args:
        values: [...], any real dtype.
        channels: even number of features.

    Returns:
        [..., channels] float32.
    """
    half = channels // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=values.device) * (-math.log(max_period) / half)
    )
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(resolution: int, channels: int, dims: int = 3) -> Tensor:
    """Fixed position code of a regular grid, row-major (the last axis runs fastest).

    Args:
        resolution: cells along each axis.
        channels: features; a remainder of the division by 2 * dims is zero.
        dims: axes of the grid.

    Returns:
        [resolution**dims, channels] float32.
    """
    axes = torch.meshgrid(*[torch.arange(resolution)] * dims, indexing="ij")
    coords = torch.stack(axes, dim=-1).reshape(-1, dims)
    per_axis = 2 * (channels // (2 * dims))
    code = sinusoid(coords, per_axis).flatten(1)
    return F.pad(code, (0, channels - code.shape[1]))


class TimestepEmbedder(nn.Module):
    """Embedding of a scalar in 0..1000: sinusoids, then a two-layer MLP.

    Args:
        channels: width of the vector.
        zero_init: start with a constant output, so that an untrained input has no effect.
    """

    FREQUENCIES = 256

    def __init__(self, channels: int, zero_init: bool = False) -> None:
        super().__init__()
        first, last = nn.Linear(self.FREQUENCIES, channels), nn.Linear(channels, channels)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        if zero_init:
            nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, t: Tensor) -> Tensor:
        """t: [] or [B] -> [1 or B, channels]."""
        features = sinusoid(t.reshape(-1), self.FREQUENCIES)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class HeadRMSNorm(nn.Module):
    """RMS norm of each head's vector with learned gains."""

    def __init__(self, num_heads: int, head_channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(num_heads, head_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, H, N, D] -> same shape and dtype."""
        normed = F.rms_norm(x.float(), x.shape[-1:])
        return (normed * self.gamma[:, None]).to(x.dtype)


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * C] -> `parts` views of [B, H, N, C / H]; no copy."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, parts, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, N, H * D]."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention [..., N, D], [..., L, D], [..., L, D] -> [..., N, D].

    In training on a CPU it is written out: on a few hundred tokens, the fused kernel's backward pass is several times
    slower than two matrix products.
    """
    if q.requires_grad and q.device.type == "cpu":
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        return torch.matmul(torch.softmax(scores, dim=-1).to(v.dtype), v)
    return F.scaled_dot_product_attention(q, k, v)


class SelfAttention(nn.Module):
    """Full self-attention over one sequence."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, C] -> same."""
        q, k, v = split_heads(self.to_qkv(x), 3, self.num_heads)
        return self.to_out(merge_heads(attend(q, k, v)))


class CrossAttention(nn.Module):
    """Attention of a sequence to context tokens."""

    def __init__(self, channels: int, context_channels: int, num_heads: int, qk_rms_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk_rms_norm = qk_rms_norm
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = HeadRMSNorm(num_heads, channels // num_heads)
            self.k_rms_norm = HeadRMSNorm(num_heads, channels // num_heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: [B, N, C], context: [B, L, context_channels] -> [B, N, C]."""
        (q,) = split_heads(self.to_q(x), 1, self.num_heads)
        k, v = split_heads(self.to_kv(context), 2, self.num_heads)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return self.to_out(merge_heads(attend(q, k, v)))


class TransformerBlock(nn.Module):
    """Plain pre-norm block: self-attention, then MLP."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = SelfAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, N, C] -> same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def init_linears(module: nn.Module) -> None:
    """Xavier weights and zero biases in every linear layer below `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
