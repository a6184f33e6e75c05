"""The tokens of a solve: their voxels, and the high-frequency detail of the shape there. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fast_sam3d.sampling.syncs import Syncs


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of one solve.

    Args:
        coords: [N, 4] int (object, x, y, z), the voxel of each token.
        occupancy: [B, R, R, R] logits of the sparse structure that the voxels come from; None if unknown.
        scale: cells of that grid along each side of a voxel; above 1 where voxels were merged.
        steps: of the solve.
        decode: the state of a sparse structure [1, N, C] -> its logits [1, 1, R, R, R]; None: not decodable.
        syncs: of the solve.
    """

    coords: Tensor
    occupancy: Tensor | None = None
    scale: float = 1.0
    steps: int = 0
    decode: Callable[[Tensor], Tensor] | None = None
    syncs: Syncs = field(default_factory=Syncs)

    def cells(self, edge: int = 2) -> tuple[Tensor, int]:
        """The function `cells` of these tokens."""
        self.syncs.count += 1  # the number of cells
        return cells(self.coords, edge)

    @property
    def places(self) -> Tensor:
        """[N, 4] int64 (object, x, y, z): the cell of `occupancy` in the middle of each voxel.

        Voxels are merged about the grid's middle, as the pose requires.
        """
        if self.scale == 1 or self.occupancy is None:
            return self.coords.long()
        size = self.occupancy.shape[-1]
        middle = (self.coords[:, 1:] + 0.5 - size / 2) * self.scale + size / 2
        return torch.cat([self.coords[:, :1].long(), middle.floor().long().clamp(0, size - 1)], dim=1)


def cells(coords: Tensor, edge: int = 2) -> tuple[Tensor, int]:
    """The cell of each voxel.

    Args:
        coords: [N, 4] int (object, x, y, z), none negative.
        edge: of a cell, in voxels.

    Returns:
        [N] int64 numbers of cells, counted up in the order of (object, x, y, z), and how many cells there are.
    """
    places = torch.cat([coords[:, :1], coords[:, 1:] // edge], dim=1).long()
    size = places.max(dim=0).values + 1
    flat = ((places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2]) * size[3] + places[:, 3]
    numbers, cell = torch.unique(flat, return_inverse=True)
    return cell, len(numbers)


def cell_sums(values: Tensor, cell: Tensor, count: int) -> Tensor:
    """Sums over the tokens of each cell, in the same order at every call: [N, ...], [N] int64 -> [count, ...].

    On CUDA `index_add_` adds in any order, so that of two cells that are about equal another one could win;
    `index_put_` sorts first there, but not on a CPU.
    """
    total = values.new_zeros(count, *values.shape[1:])
    return total.index_put_((cell,), values, accumulate=True) if values.is_cuda else total.index_add_(0, cell, values)


def high_frequency(occupancy: Tensor, coords: Tensor, cutoff: float) -> Tensor:
    """Magnitude of the high-frequency part of the positive logits at each voxel.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.3.

    Args:
        occupancy: [B, R, R, R] logits.
        coords: [N, 4] int (object, x, y, z) inside that grid.
        cutoff: cycles per voxel; lower frequencies are dropped.

    Returns:
        [N] float32 on the device of `occupancy`.
    """
    positive = occupancy.float().clamp_min(0)
    axes = [torch.fft.fftfreq(n, device=positive.device) for n in positive.shape[1:3]]
    axes.append(torch.fft.rfftfreq(positive.shape[3], device=positive.device))
    squares = [a.square() for a in axes]
    radius = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt()
    spectrum = torch.fft.rfftn(positive, dim=(1, 2, 3)) * (radius >= cutoff)
    detail = torch.fft.irfftn(spectrum, s=positive.shape[1:], dim=(1, 2, 3)).abs()
    b, x, y, z = coords.to(positive.device).long().unbind(1)
    return detail[b, x, y, z]
