"""Dense transformer layers."""

from __future__ import annotations

import math
from typing import Final

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


def position_code(coords: Tensor, channels: int, sin_first: bool = False) -> Tensor:
    """Fixed position code: the sinusoids of each axis one after the other.

    Args:
        coords: [N, axes] integer.
        channels: features; a remainder of the division by 2 * axes is zero.
        sin_first: sines before cosines, as in the published networks, instead of after them.

    Returns:
        [N, channels] float32.
    """
    half = channels // (2 * coords.shape[1])
    if sin_first:
        # The published form, to the last bit: elsewhere frequencies are exponentials.
        powers = torch.arange(half, dtype=torch.float32, device=coords.device) / half
        angles = coords.float()[..., None] * (1.0 / 10000**powers)
        code = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    else:
        code = sinusoid(coords, 2 * half).flatten(1)
    return F.pad(code, (0, channels - code.shape[1]))


def grid_positions(resolution: int, channels: int, dims: int = 3, sin_first: bool = False) -> Tensor:
    """Fixed position code of a regular grid, row-major (the last axis runs fastest).

    Args:
        resolution: cells along each axis.
        channels, sin_first: as for `position_code`.
        dims: axes of the grid.

    Returns:
        [resolution**dims, channels] float32.
    """
    axes = torch.meshgrid(*[torch.arange(resolution)] * dims, indexing="ij")
    return position_code(torch.stack(axes, dim=-1).reshape(-1, dims), channels, sin_first)


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
    """RMS norm of each head's vector with learned gains.

    Args:
        num_heads, head_channels: shape of the gains.
        floor: torch's epsilon under the root; without it a vector is divided by its length, as in the published
            networks.
    """

    def __init__(self, num_heads: int, head_channels: int, floor: bool = True) -> None:
        super().__init__()
        self.floor = floor
        self.gamma = nn.Parameter(torch.ones(num_heads, head_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, H, N, D] -> same shape and dtype."""
        x32, gamma = x.float(), self.gamma[:, None]
        if self.floor:
            normed = F.rms_norm(x32, x.shape[-1:]) * gamma
        else:
            normed = F.normalize(x32, dim=-1) * gamma * x.shape[-1] ** 0.5
        return normed.to(x.dtype)


class LayerNorm32(nn.LayerNorm):
    """Layer norm in float32 of any input, in the type of the input; weights are float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * C] -> `parts` views of [B, H, N, C / H]; no copy."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, parts, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, N, H * D]."""
    return x.transpose(1, 2).flatten(2)


SPLIT_DEVICES: Final = ("mps",)
"""Devices on which torch's fused attention may hold all scores at once."""

SCORE_BYTES: Final = 256 * 2**20
"""Scores that are held at a time on such a device."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention [..., N, D], [..., L, D], [..., L, D] -> [..., N, D].

    In training on a CPU it is written out: on a few hundred tokens, the fused kernel's backward pass is several times
    slower than two matrix products. On `SPLIT_DEVICES` queries are processed in parts, each with all keys.
    """
    if q.requires_grad and q.device.type == "cpu":
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        return torch.matmul(torch.softmax(scores, dim=-1).to(v.dtype), v)
    if q.device.type in SPLIT_DEVICES:
        row = max(q.numel() // max(q.shape[-1] * q.shape[-2], 1), 1) * k.shape[-2] * q.element_size()
        count = max(SCORE_BYTES // max(row, 1), 1)
        if count < q.shape[-2]:
            parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split(count, dim=-2)]
            return torch.cat(parts, dim=-2)
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


class ContextProjections(nn.Module):
    """The layers of a cross-attention: queries of tokens, keys and values of a context.

    Args:
        channels: width of the tokens.
        context_channels: width of the context.
        num_heads: attention heads.
        qk_rms_norm: normalise queries and keys.
        floor: see `HeadRMSNorm`.
    """

    def __init__(
        self, channels: int, context_channels: int, num_heads: int, qk_rms_norm: bool = False, floor: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk_rms_norm = qk_rms_norm
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        if qk_rms_norm:
            self.q_rms_norm = HeadRMSNorm(num_heads, channels // num_heads, floor)
            self.k_rms_norm = HeadRMSNorm(num_heads, channels // num_heads, floor)
        self.kept: dict[int, Tensor | None] = {}
        """Keys and values by the identity of a context, see `fast_sam3d.model.contexts`; None: not yet computed."""

    def keys_and_values(self, context: Tensor) -> Tensor:
        """[B, L, context_channels] -> [B, L, 2 C]; computed once if that context's are kept."""
        # A compiled graph would be compiled again for each context, as soon as it asks for its identity.
        if torch.compiler.is_compiling() or not self.kept or id(context) not in self.kept:
            return self.to_kv(context)
        key = id(context)
        found = self.kept[key]
        if found is None:
            found = self.kept[key] = self.to_kv(context)
        return found

    def of_one(self, context: Tensor) -> Tensor:
        """The result for every query of a context [B, 1, context_channels], [B, 1, C]: attention to one token is 1."""
        return self.to_out(self.keys_and_values(context).chunk(2, dim=-1)[1])


class CrossAttention(ContextProjections):
    """Attention of a sequence to context tokens."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: [B, N, C], context: [B, L, context_channels] -> [B, N, C]."""
        if context.shape[1] == 1 < x.shape[1]:
            return self.of_one(context).expand(*x.shape[:2], -1)
        (q,) = split_heads(self.to_q(x), 1, self.num_heads)
        k, v = split_heads(self.keys_and_values(context), 2, self.num_heads)
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
