"""Sparse voxel tensors in plain PyTorch: submanifold convolution, pooling and subdivision.

A `SparseGrid` describes the voxels of a tensor; tensors from `SparseTensor.replace` share it.
Coordinates are always real tensors, even with features on the meta device, so that the operations of a layer can be
counted without computing them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import CENTRE, OFFSETS, SparseGrid

GATHER_CHANNELS = 64
"""Maximum of channels for which convolutions on a CPU gather all neighbours at once."""

GATHER_ROWS = 1024
"""Voxels gathered at a time."""


class SparseTensor:
    """Features of the active voxels of a batch of objects.

    Args:
        feats: [N, C], any device, meta included.
        coords: [N, 4] integer, (batch, x, y, z), sorted by batch; or a `SparseGrid` to share.
    """

    def __init__(self, feats: Tensor, coords: Tensor | SparseGrid) -> None:
        self.grid = coords if isinstance(coords, SparseGrid) else SparseGrid(coords)
        if feats.shape[0] != len(self.grid):
            raise ValueError(f"{feats.shape[0]} rows of features for {len(self.grid)} voxels")
        self.feats = feats

    @property
    def coords(self) -> Tensor:
        """[N, 4] int32, (batch, x, y, z)."""
        return self.grid.coords

    @property
    def layout(self) -> list[slice]:
        """The rows of each object."""
        return self.grid.layout

    @property
    def shape(self) -> torch.Size:
        """(number of objects, channels)."""
        return torch.Size([self.grid.batch_size, *self.feats.shape[1:]])

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the features."""
        return self.feats.dtype

    def __len__(self) -> int:
        return self.feats.shape[0]

    def __getitem__(self, index: int) -> SparseTensor:
        """One object of the batch, as a batch of one."""
        rows = self.layout[index]
        coords = self.coords[rows].clone()
        coords[:, 0] = 0
        return SparseTensor(self.feats[rows], coords)

    def replace(self, feats: Tensor) -> SparseTensor:
        """Same voxels with other features."""
        return SparseTensor(feats, self.grid)

    def to(self, *args, **kwargs) -> SparseTensor:
        """`Tensor.to` on the features; the coordinates move along, except to the meta device."""
        feats = self.feats.to(*args, **kwargs)
        if feats.device.type == "meta" or feats.device == self.coords.device:
            return SparseTensor(feats, self.grid)
        return SparseTensor(feats, self.coords.to(feats.device))

    def type(self, dtype: torch.dtype) -> SparseTensor:
        """Features cast to `dtype`."""
        return self.replace(self.feats.to(dtype))

    def __add__(self, other: Tensor | SparseTensor | float) -> SparseTensor:
        return self.replace(self.feats + _operand(other))

    def __sub__(self, other: Tensor | SparseTensor | float) -> SparseTensor:
        return self.replace(self.feats - _operand(other))

    def __mul__(self, other: Tensor | SparseTensor | float) -> SparseTensor:
        return self.replace(self.feats * _operand(other))

    def __truediv__(self, other: Tensor | SparseTensor | float) -> SparseTensor:
        return self.replace(self.feats / _operand(other))

    def __neg__(self) -> SparseTensor:
        return self.replace(-self.feats)

    __radd__, __rmul__ = __add__, __mul__


def _operand(other: Tensor | SparseTensor | float) -> Tensor | float:
    return other.feats if isinstance(other, SparseTensor) else other


class _PairConvolution(torch.autograd.Function):
    """out[target] += feats[source] @ weight[tap] over the neighbour pairs, and the same backwards.

    A custom function because autograd would keep the gathered rows of all taps. Rows of a tap are distinct, so the
    result is reproducible on every device. Accumulates in float32.
    """

    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.pairs = pairs
        out = (feats @ weight[CENTRE]).float()
        for tap, (source, target) in enumerate(pairs):
            if tap != CENTRE and source.shape[0]:
                out.index_add_(0, target, (feats.index_select(0, source) @ weight[tap]).float())
        return out.to(feats.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feats, weight = ctx.saved_tensors
        grad = grad.to(feats.dtype)
        grad_feats = (grad @ weight[CENTRE].T).float() if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        grad_weight[CENTRE] = feats.T @ grad
        for tap, (source, target) in enumerate(ctx.pairs):
            if tap == CENTRE or not source.shape[0]:
                continue
            rows = grad.index_select(0, target)
            grad_weight[tap] = feats.index_select(0, source).T @ rows
            if grad_feats is not None:
                grad_feats.index_add_(0, source, (rows @ weight[tap].T).float())
        return (None if grad_feats is None else grad_feats.to(feats.dtype)), grad_weight, None


class _GatherConvolution(torch.autograd.Function):
    """The same sum as `_PairConvolution`, as one product of all 27 gathered neighbours with the whole kernel.

    Missing neighbours are multiplied as zeros, which doubles the arithmetic, but nothing is scattered. On a CPU, where
    few channels are memory-bound, two to four times faster at 16 to 64 channels.
    """

    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.neighbours = neighbours
        return torch.cat([rows @ weight.flatten(0, 1) for _, rows in _gathered(feats, neighbours)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        feats, weight = ctx.saved_tensors
        grad = grad.to(feats.dtype)
        grad_weight = torch.zeros_like(weight.flatten(0, 1), dtype=torch.float32)
        for chunk, rows in _gathered(feats, ctx.neighbours):
            grad_weight += rows.T @ grad[chunk]
        grad_feats = None
        if ctx.needs_input_grad[0]:
            # If a is the neighbour of b at an offset, b is that of a at the opposite one.
            mirrored = weight.flip(0).transpose(1, 2).flatten(0, 1)
            grad_feats = torch.cat([rows @ mirrored for _, rows in _gathered(grad, ctx.neighbours)])
        return grad_feats, grad_weight.view_as(weight).to(weight.dtype), None


def _gathered(feats: Tensor, neighbours: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of [n, 27 C] neighbour features, small enough for a core's cache; missing ones are zero."""
    padded = F.pad(feats, (0, 0, 0, 1))
    for start in range(0, max(len(neighbours), 1), GATHER_ROWS):
        index = neighbours[start : start + GATHER_ROWS]
        rows = padded.index_select(0, index.reshape(-1))
        yield slice(start, start + GATHER_ROWS), rows.view(index.shape[0], -1)


class SparseConv3d(nn.Module):
    """Submanifold 3x3x3 convolution: outputs on the input's voxels only, missing neighbours are zero.

    Weight [27, in, out], taps as in OFFSETS; equals `conv3d` with padding 1 on the densified input, read at the
    active voxels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(OFFSETS), in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(len(OFFSETS) * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        feats = x.feats.to(self.compute_dtype(x.feats))
        weight = self.weight.to(feats.dtype)
        if feats.device.type == "cpu" and feats.shape[1] <= GATHER_CHANNELS:
            out = _GatherConvolution.apply(feats, weight, x.grid.neighbours())
        else:
            out = _PairConvolution.apply(feats, weight, x.grid.pairs(feats.device))
        return x.replace(out + self.bias.to(out.dtype))

    @staticmethod
    def compute_dtype(feats: Tensor) -> torch.dtype:
        """dtype of the convolution: autocast's, if enabled."""
        kind = feats.device.type
        on = kind != "meta" and torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if on else feats.dtype


class SparseDownsample(nn.Module):
    """Mean of the active voxels of each 2x2x2 block.

    Args:
        extra: added to the number of voxels. The published networks have 1: they count the zero that they sum from
            (sam3d_objects/model/backbone/tdfy_dit/modules/sparse/spatial.py).
    """

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: SparseTensor) -> SparseTensor:
        grid, parent_of = x.grid.downsampled()
        parent_of = parent_of.to(x.device)
        one = torch.ones(len(x), device=x.device)
        count = torch.full((len(grid),), float(self.extra), device=x.device).index_add(0, parent_of, one)
        total = torch.zeros(len(grid), x.feats.shape[1], device=x.device).index_add(0, parent_of, x.feats.float())
        return SparseTensor((total / count[:, None]).to(x.dtype), grid)


class SparseUpsample(nn.Module):
    """Nearest upsampling to the voxels before `SparseDownsample`."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        if x.grid.finer is None or x.grid.parent_of is None:
            raise ValueError("this tensor does not come from SparseDownsample: there is no finer grid to return to")
        return SparseTensor(x.feats.index_select(0, x.grid.parent_of.to(x.device)), x.grid.finer)


class SparseSubdivide(nn.Module):
    """Replace each voxel by its eight children, with its features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return subdivide(x, x.grid.subdivided())


def subdivide(x: SparseTensor, grid: SparseGrid) -> SparseTensor:
    """Features of `x` on its subdivided grid, which branches may share."""
    return SparseTensor(x.feats.repeat_interleave(8, dim=0), grid)
