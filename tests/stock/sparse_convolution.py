"""Sparse convolution of the stock classes on a CPU.

Where spconv 2 is importable, its own layers, index pairs and one-tap path run, and only the kernel for more taps is
replaced (`on_cpu`): spconv's gives results that change from run to run on more than one thread, and refuses a bias.
Elsewhere the classes below take the place of spconv; `test_subdivision.py` compares them with spconv's.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

REAL = importlib.util.find_spec("spconv") is not None


@contextmanager
def on_cpu() -> Iterator[None]:
    """Convolutions of more than one tap run on the CPU in this block, on any number of threads."""
    if not REAL:
        yield
        return
    functional = importlib.import_module("spconv.pytorch.functional")
    with mock.patch.object(functional, "indice_subm_conv", indice_subm_conv):
        yield


def indice_subm_conv(
    features: Tensor, weight: Tensor, pairs: Tensor, counts: Tensor, rows: int, algo: Any, timer: Any,
    bias: Tensor | None = None, *activation: Any,
) -> Tensor:  # fmt: skip
    """Replaces the function of spconv.pytorch.functional: [N, in] -> [N, out].

    Args:
        features: [N, in].
        weight: [out, k, k, k, in].
        pairs: [2, k^3, N] rows of a neighbour and of the voxel that it contributes to; counts: [k^3] how many, of the
            first half of the taps. The other half has as many as its mirror, and the middle tap has every voxel.
    """
    own, kinds = torch.arange(rows), weight.shape[1:4].numel()
    known = counts.tolist()
    found = [
        (own, own) if tap == kinds // 2 else tuple(pairs[:, tap, : known[min(tap, kinds - 1 - tap)]].long())
        for tap in range(kinds)
    ]
    return convolve(features, weight, bias, found)


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, pairs: list[Any]) -> Tensor:
    """For each tap a matrix product of the neighbours' features, summed in float32.

    In autocast all is cast to float16, whatever autocast's type is, as spconv does on CUDA.
    """
    if torch.is_autocast_enabled("cpu"):
        features, weight = features.half(), weight.half()
    with torch.autocast("cpu", enabled=False):
        out = torch.zeros(len(features), len(weight)) if bias is None else bias.float().repeat(len(features), 1)
        wide, kernels = features.float(), weight.float().flatten(1, 3).permute(1, 2, 0)
        for kernel, (source, target) in zip(kernels, pairs, strict=True):
            if len(source):
                out.index_add_(0, target, wide.index_select(0, source) @ kernel)
    return out.to(features.dtype)


class SparseConvTensor:
    """Features [N, C] at indices [N, 4] int32 (batch, x, y, z)."""

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Any,
        batch_size: int,
        grid: Any = None,
        voxel_num: Any = None,
        indice_dict: Any = None,
    ) -> None:
        assert indices.dtype == torch.int32 and indices.is_contiguous(), "spconv reads the memory of indices"
        self._features, self.indices = features, indices
        self.spatial_shape, self.batch_size = spatial_shape, batch_size
        self.grid, self.voxel_num = grid, voxel_num
        self.indice_dict = {} if indice_dict is None else indice_dict
        self.benchmark, self.benchmark_record, self.thrust_allocator = False, {}, None
        self._timer, self.force_algo, self.int8_scale = None, None, None

    @property
    def features(self) -> Tensor:
        return self._features


class SubMConv3d(nn.Module):
    """Convolution over the active voxels; weight [out, k, k, k, in], as in files.

    With one tap the weight's memory is read as [in, out]: spconv does so, and checkpoints were trained with it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        indice_key: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.indice_key = indice_key
        spread = (in_channels * kernel_size**3) ** -0.5
        self.weight = nn.Parameter(torch.randn(out_channels, *[kernel_size] * 3, in_channels) * spread)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Any) -> Any:
        known, found = x.indice_dict, None
        if self.kernel_size == 1:
            out = torch.mm(x.features, self.weight.view(self.in_channels, self.out_channels))
            out = out if self.bias is None else out.add_(self.bias)
        else:
            found = known.get(self.indice_key) or neighbours(x.indices, self.kernel_size)
            out = convolve(x.features, self.weight, self.bias, found)
        if found and self.indice_key:
            known = {**known, self.indice_key: found}
        return SparseConvTensor(out, x.indices, x.spatial_shape, x.batch_size, indice_dict=known)


def neighbours(places: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Rows of the neighbours at each tap of a kernel, and of the voxels that have them."""
    reach = size // 2
    first, *axes = (places.long() + torch.tensor([0, reach, reach, reach])).unbind(1)
    shape = [int(axis.max()) + 1 + reach for axis in (first, *axes)]
    grid = torch.full(shape, -1)
    grid[first, axes[0], axes[1], axes[2]] = torch.arange(len(places))
    steps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 3)
    x, y, z = (axis + step[:, None] for axis, step in zip(axes, steps.unbind(1), strict=True))
    table = grid[first, x, y, z]
    return [(row[row >= 0], torch.nonzero(row >= 0).flatten()) for row in table]
