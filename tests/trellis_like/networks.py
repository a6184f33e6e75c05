"""Tiny networks with the names of trellis/models, and a sparse tensor with the surface of trellis/modules/sparse."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model import sparse
from fast_sam3d.model.layers import CrossAttention, FeedForward, SelfAttention, TimestepEmbedder, grid_positions
from fast_sam3d.model.slat_flow import SparseResBlock
from fast_sam3d.model.sparse_transformer import ModulatedCrossBlock, voxel_positions

WIDTH, HEADS, BLOCKS, IO_WIDTH, CHANNELS = 16, 2, 2, 8, 8


class SparseTensor(sparse.SparseTensor):
    """Features [N, C] at coords [N, 4] int32 (batch, x, y, z); a tensor [1 or B, C] acts on all voxels of an object."""

    __array_ufunc__ = None  # a float of numpy times this is this times the float

    def replace(self, feats: Tensor, coords: Tensor | None = None) -> SparseTensor:
        return type(self)(feats, self.grid if coords is None else coords)

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        moved = super().to(*args, **kwargs)
        return type(self)(moved.feats, moved.grid)

    def __getitem__(self, index: int) -> SparseTensor:
        one = super().__getitem__(index)
        return type(self)(one.feats, one.grid)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def std(self, dim: Any, keepdim: bool = True) -> Tensor:
        """[B, 1] of each object's features; TRELLIS.2 calls it with all axes but the first."""
        assert list(dim) == [1] and keepdim
        return torch.stack([self.feats[rows].std() for rows in self.layout])[:, None]

    def _with(self, other: Any, operation: Callable[..., Tensor]) -> SparseTensor:
        if isinstance(other, sparse.SparseTensor):
            other = other.feats
        elif isinstance(other, Tensor):
            with contextlib.suppress(RuntimeError):
                other = torch.broadcast_to(other, self.shape).index_select(0, self.grid.batch_index(self.device))
        return self.replace(operation(self.feats, other))

    def __neg__(self) -> SparseTensor:
        return self.replace(-self.feats)

    def __add__(self, other: Any) -> SparseTensor:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> SparseTensor:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> SparseTensor:
        return self._with(other, lambda own, given: given - own)

    def __mul__(self, other: Any) -> SparseTensor:
        return self._with(other, operator.mul)

    def __truediv__(self, other: Any) -> SparseTensor:
        return self._with(other, operator.truediv)

    __radd__, __rmul__ = __add__, __mul__


class SparseLinear(nn.Linear):
    def forward(self, x: Any) -> Any:
        return x.replace(super().forward(x.feats))


class ModulatedTransformerCrossBlock(nn.Module):
    """[B, N, C], modulation by the time [B, C], context [B, L, C'] -> [B, N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.norm3 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.self_attn = SelfAttention(WIDTH, HEADS)
        self.cross_attn = CrossAttention(WIDTH, WIDTH, HEADS)
        self.mlp = FeedForward(WIDTH, 2)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x: Tensor, mod: Tensor, context: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(mod)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.self_attn(self.norm1(x) * (1 + scale1) + shift1)
        x = x + self.cross_attn(self.norm2(x), context)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


class SparseStructureFlowModel(nn.Module):
    """x [B, 8, R, R, R], t [B] in 0..1000, cond [B, L, C] -> the velocity, like x."""

    def __init__(self, resolution: int = 4) -> None:
        super().__init__()
        self.resolution, self.in_channels, self.out_channels, self.patch_size = resolution, CHANNELS, CHANNELS, 1
        self.model_channels, self.num_blocks, self.num_heads, self.dtype = WIDTH, BLOCKS, HEADS, torch.float32
        self.t_embedder = TimestepEmbedder(WIDTH)
        self.register_buffer("pos_emb", grid_positions(resolution, WIDTH))
        self.input_layer = nn.Linear(CHANNELS, WIDTH)
        self.blocks = nn.ModuleList(ModulatedTransformerCrossBlock() for _ in range(BLOCKS))
        self.out_layer = nn.Linear(WIDTH, CHANNELS)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        assert list(x.shape) == [len(x), self.in_channels, *[self.resolution] * 3], list(x.shape)
        h = self.input_layer(x.flatten(2).transpose(1, 2)) + self.get_buffer("pos_emb")
        mod = self.t_embedder(t)
        for block in self.blocks:
            h = block(h, mod, cond)
        h = self.out_layer(F.layer_norm(h, h.shape[-1:]))
        return h.transpose(1, 2).reshape(x.shape)


class SLatFlowModel(nn.Module):
    """x: a sparse tensor of N voxels, t [B] in 0..1000, cond [B, L, C] -> the velocity, like x.

    Args:
        packed: with convolutions that pack 2x2x2 voxels, as in TRELLIS; TRELLIS.2 has none.
        in_channels: more than the channels of the output where another tensor is appended.
    """

    def __init__(self, resolution: int = 16, packed: bool = True, in_channels: int = CHANNELS) -> None:
        super().__init__()
        self.resolution, self.in_channels, self.out_channels = resolution, in_channels, CHANNELS
        self.model_channels, self.num_blocks, self.num_heads, self.dtype = WIDTH, BLOCKS, HEADS, torch.float32
        io = IO_WIDTH if packed else WIDTH
        self.t_embedder = TimestepEmbedder(WIDTH)
        self.input_layer = SparseLinear(in_channels, io)
        block = [SparseResBlock(io, WIDTH, WIDTH, "down", published=True)] if packed else []
        self.input_blocks = nn.ModuleList(block)
        sizes = (WIDTH, WIDTH, HEADS, 2.0)
        self.blocks = nn.ModuleList(ModulatedCrossBlock(*sizes, False, False, False, True) for _ in range(BLOCKS))
        block = [SparseResBlock(2 * WIDTH, WIDTH, io, "up", published=True)] if packed else []
        self.out_blocks = nn.ModuleList(block)
        self.out_layer = SparseLinear(io, CHANNELS)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x: SparseTensor, t: Tensor, cond: Tensor, concat_cond: SparseTensor | None = None) -> Any:
        assert t.shape == cond.shape[:1] == x.shape[:1], (t.shape, cond.shape, x.shape)
        h: Any = x if concat_cond is None else x.replace(torch.cat([x.feats, concat_cond.feats], dim=-1))
        h = self.input_layer(h)
        emb = self.t_embedder(t)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h.feats)
        h = h + voxel_positions(h.coords, WIDTH, h.device)
        for block in self.blocks:
            h = block(h, emb, cond)
        for block, skip in zip(self.out_blocks, reversed(skips), strict=True):
            h = block(h.replace(torch.cat([h.feats, skip], dim=1)), emb)
        return self.out_layer(x.replace(F.layer_norm(h.feats, h.feats.shape[-1:])))


class ImageEncoder(nn.Module):
    """In place of DINOv2: [B, 3, S, S] -> {"x_prenorm": [B, 17, C]}."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 14, 14)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def forward(self, image: Tensor, is_training: bool = False) -> Any:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return {"x_prenorm": tokens} if is_training else tokens[:, 0]


class TextEncoder(nn.Module):
    """In place of CLIP: input_ids [B, 77] -> last_hidden_state [B, 77, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, WIDTH)

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.table(input_ids).cumsum(1) / 4)


class RadianceDecoder(nn.Module):
    """A sparse tensor -> a list of trivectors, one per object."""

    def __init__(self) -> None:
        super().__init__()
        self.out_layer = SparseLinear(CHANNELS, 4)

    def forward(self, slat: SparseTensor) -> list[Any]:
        out = self.out_layer(slat)
        return [
            SimpleNamespace(
                position=slat.coords[rows, 1:], density=out.feats[rows, :1], features_dc=out.feats[rows, 1:]
            )
            for rows in slat.layout
        ]
