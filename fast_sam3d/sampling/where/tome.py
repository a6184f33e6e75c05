"""Token merging: similar cells of voxels are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.syncs import Syncs
from fast_sam3d.sampling.tokens import Tokens, cell_sums
from fast_sam3d.sampling.where.base import Choose, Merged, Where


@dataclass(frozen=True, slots=True)
class MergeCells(Where):
    """Of each 2x2x2 block of packed tokens one is the destination, and those most like theirs are merged into it.

    A packed token is a cell of 2x2x2 voxels, which the backbone works on; so a block is 4x4x4 voxels. The merged cells'
    voxels do not enter the network. Each takes the data that the destination's voxel in the same corner of its cell
    points at (the nearest corner, where that one is empty), which is the unmerging by copy.

    Source: ToMe (arXiv 2210.09461) with one destination per block as in its use for diffusion (arXiv 2303.17604). Keys
    are out of reach outside the blocks, so the similarity is that of the data that the last evaluation points at,
    averaged over a cell. A merged token is its destination, not the mean of both: the mean of two noisy states has
    less noise than the network expects.

    Args:
        merge: share of the cells that are merged away, at most, from 0 to 0.875.
        warmup: steps that run on all tokens first, at least 1.
    """

    name: ClassVar[str] = "tome"
    merge: float = setting(0.5, Real(0.0, 0.875))
    warmup: int = setting(3, Whole(1))
    needs_tokens: ClassVar[bool] = True

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        if tokens is None or self.merge == 0:
            return lambda step, history: None
        blocks = Blocks(tokens)
        merged = min(int(self.merge * blocks.count), len(blocks.sources))
        if merged == 0:
            return lambda step, history: None

        def choose(step: int, history: History[Evaluation]) -> Merged | None:
            if step < self.warmup:
                return None
            last = history[0]
            (x,), (v,) = last.x.values(), last.v.values()
            data = (x + (1 - last.t) * v)[0]
            return blocks.merge(blocks.alike(data)[:merged], history.syncs)

        return choose


class Blocks:
    """The cells of a solve's tokens, and the destination of each.

    Attributes:
        count: of cells.
        sources: [S] int64, the cells that are no destination.
    """

    def __init__(self, tokens: Tokens) -> None:
        device = tokens.coords.device
        self.cell, self.count = tokens.cells(2)
        block, number_of_blocks = tokens.cells(4)
        # The first cell of each block is its destination.
        first = block.new_full((number_of_blocks,), self.count)
        first = first.scatter_reduce(0, block, self.cell, "amin")
        self.destination = block.new_zeros(self.count).scatter(0, self.cell, first[block])
        own = torch.arange(self.count, device=device)
        self.sources = tokens.syncs.rows(self.destination != own)
        x, y, z = (tokens.coords[:, 1:].long() % 2).unbind(1)
        corner = 4 * x + 2 * y + z
        self.at = block.new_full((self.count, 8), -1)
        self.at[self.cell, corner] = torch.arange(len(corner), device=device)
        number = torch.arange(8, device=device)
        bits = torch.stack([number // 4, number // 2 % 2, number % 2], dim=1)
        self.apart = (bits[:, None] - bits[None]).abs().sum(-1)[corner]  # [N, 8] steps from a voxel's corner to each

    def alike(self, data: Tensor) -> Tensor:
        """The sources, most like their destination first, by the cosine of the means of data [N, C] over each cell."""
        unit = F.normalize(cell_sums(data, self.cell, self.count), dim=1)
        likeness = (unit[self.sources] * unit[self.destination[self.sources]]).sum(1)
        return self.sources[torch.sort(likeness, descending=True, stable=True).indices]

    def merge(self, gone: Tensor, syncs: Syncs) -> Merged:
        """Without the cells `gone` [G]."""
        kept = torch.ones(self.count, dtype=torch.bool, device=gone.device).index_fill(0, gone, False)
        enters = kept[self.cell]
        candidates = self.at[self.destination[self.cell]]
        nearest = (self.apart + 8 * (candidates < 0)).argmin(1, keepdim=True)
        source = torch.where(enters, torch.arange(len(enters), device=gone.device), candidates.gather(1, nearest)[:, 0])
        place = enters.long().cumsum(0) - 1
        return Merged(syncs.rows(enters), place[source])
