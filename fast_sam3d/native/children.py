"""Convolutions of the children of voxels, tap by tap of their parents.

A subdivided voxel is a row of eight children. A child's 27 neighbours lie in at most eight parents, so a 3x3x3
convolution of children is one of their parents, with eight times the channels and a kernel with blocks of zeros: the
parent itself sees all of its children, a parent behind a face four, behind an edge two, behind a corner one. That is 27
matrix products of rows that exist, in place of 216. Where the children of a voxel are equal, as after a subdivision,
the blocks are summed over them beforehand: 64 products of channels in place of 216.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import torch
from torch import Tensor

from fast_sam3d.geometry.sparse_grid import CENTRE, CHILDREN, OFFSETS

__all__ = ["Taps", "convolve_children", "kernels_of"]

Taps = tuple[Tensor, ...]
"""One matrix for each of OFFSETS between parents."""


def _along(step: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Along an axis, the children that see into a parent at `step`, and the children there that they see."""
    return ((0,), (1,)) if step < 0 else ((1,), (0,)) if step > 0 else ((0, 1), (0, 1))


def _sides(offset: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the CHILDREN that see into a parent at `offset`, and of its children that they see."""
    own, theirs = zip(*map(_along, offset), strict=True)
    return tuple(map(CHILDREN.index, product(*own))), tuple(map(CHILDREN.index, product(*theirs)))


def _between(offset: tuple[int, ...], child: int, other: int) -> int:
    """Number in OFFSETS of the step from a child to another one of a parent at `offset`."""
    steps = zip(offset, CHILDREN[child], CHILDREN[other], strict=True)
    return OFFSETS.index(tuple(2 * o + there - here for o, here, there in steps))


_SIDES: Final = tuple(_sides(offset) for offset in OFFSETS)
_STEPS: Final = tuple(
    [[_between(offset, child, other) for child in own] for other in theirs]
    for offset, (own, theirs) in zip(OFFSETS, _SIDES, strict=True)
)


def kernels_of(weight: Tensor, copies: bool) -> Taps:
    """The kernel of a convolution of children, as one matrix for each of their parents' neighbours.

    Args:
        weight: [27, in, out], taps as in OFFSETS.
        copies: the children have their parents' features; their kernels are summed in float32 or better.

    Returns:
        of each tap [in, own * out] with copies, else [theirs * in, own * out]: own and theirs children see one another.
    """
    found = []
    for steps in _STEPS:
        blocks = weight[torch.tensor(steps, device=weight.device)]  # [theirs, own, in, out]
        if copies:
            wide = blocks.to(torch.promote_types(weight.dtype, torch.float32))
            blocks = wide.sum(0, keepdim=True).to(weight.dtype)
        found.append(blocks.permute(0, 2, 1, 3).reshape(blocks.shape[0] * blocks.shape[2], -1))
    return tuple(found)


def convolve_children(
    feats: Tensor, neighbours: Tensor, kernels: Taps, start: int, copies: bool, compact: bool | None = None
) -> Tensor:
    """A submanifold 3x3x3 convolution of the children of some voxels.

    Args:
        feats: [N, in] of the voxels with `copies`, else [8 N, in] of their children.
        neighbours: [n, 27] row of the voxel at each of OFFSETS from the voxels start .. start + n, N where there is
            none.
        kernels: see `kernels_of`.
        copies: the children have their parents' features.
        compact: multiply only rows that exist, whose number a GPU's host has to wait for; else zeros in their places.
            None: where the table of neighbours is on the host.

    Returns:
        [8 n, out], at least float32; rows 8 i .. 8 i + 7 are the CHILDREN of voxel start + i.
    """
    count, width = len(neighbours), 1 if copies else len(CHILDREN)
    size = len(feats) // width
    wide = torch.promote_types(feats.dtype, torch.float32)
    out = feats.new_zeros(len(CHILDREN) * count, kernels[CENTRE].shape[1] // len(CHILDREN), dtype=wide)
    out.view(count, -1).add_(feats[width * start : width * (start + count)].reshape(count, -1) @ kernels[CENTRE])
    compact = neighbours.device.type == "cpu" if compact is None else compact
    for tap, (kernel, (own, theirs)) in enumerate(zip(kernels, _SIDES, strict=True)):
        if tap == CENTRE:
            continue
        column = neighbours[:, tap].long()
        known = column < size
        if compact:
            rows = known.nonzero().flatten()
            found = _rows(feats, column[rows].to(feats.device), theirs, copies) @ kernel
            out.index_add_(
                0, _children(rows.to(feats.device), own), found.view(len(rows) * len(own), out.shape[1]).to(wide)
            )
        else:
            voxels = column.clamp(max=size - 1).to(feats.device)
            if copies:
                found = feats.index_select(0, voxels)
            else:
                found = _block(feats, theirs).index_select(0, voxels).flatten(1)
            found = found.masked_fill_(~known[:, None].to(feats.device), 0) @ kernel
            block = _block(out, own)
            block += found.view(block.shape).to(wide)
    return out


def _rows(feats: Tensor, voxels: Tensor, numbers: tuple[int, ...], copies: bool) -> Tensor:
    """Features of voxels [n], or of some of their CHILDREN side by side: [n, in] or [n, c * in]."""
    if copies:
        return feats.index_select(0, voxels)
    return feats.index_select(0, _children(voxels, numbers)).view(len(voxels), len(numbers) * feats.shape[1])


def _block(feats: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """View [n, x, y, z, C] of the children `numbers`, which are a box, of all voxels in [8 n, C]; without an index,
    which would have to be copied to the device."""
    x, y, z = (slice(low, high + 1) for low, high in zip(CHILDREN[numbers[0]], CHILDREN[numbers[-1]], strict=True))
    return feats.view(-1, 2, 2, 2, feats.shape[1])[:, x, y, z]


def _children(voxels: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Rows [n * c] of some of the CHILDREN of voxels [n]."""
    return (voxels[:, None] * len(CHILDREN) + torch.tensor(numbers, device=voxels.device)).flatten()
