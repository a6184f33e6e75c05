"""Token carving by saliency: motion and detail."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.tokens import Tokens, cell_sums, high_frequency
from fast_sam3d.sampling.where.base import Choose, Where


@dataclass(frozen=True, slots=True)
class Saliency(Where):
    """The 2x2x2 cells that move most and have most detail: J = (M + gamma A) / 2 + S / 2, averaged over a cell.

    M is the norm of a token's velocity, A that of its last change, S the high-frequency part of the occupancy logits
    at its voxel; each is scaled to 0..1 over the object's tokens. Whole cells are chosen, because the backbone packs
    2x2x2 voxels into one token: a part of a cell costs as much as all of it.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.3. The public release scores single voxels, and its
    `carving_ratio` is the share that is left out.

    Args:
        keep: share of the cells that enter the network, above 0; 1 is all of them, bit for bit.
        gamma: weight of A against M.
        cutoff: cycles per voxel below which S ignores the logits; the paper's radius of 8 on a grid of 64 is 0.125.
        warmup: steps that run on all tokens first, at least 1.
    """

    name: ClassVar[str] = "saliency"
    keep: float = setting(0.1, Real(1e-3, 1.0))
    gamma: float = setting(0.7, Real(0.0, 100.0))
    cutoff: float = setting(0.125, Real(0.0, 0.5))
    warmup: int = setting(3, Whole(1))
    needs_tokens: ClassVar[bool] = True
    depth: ClassVar[int] = 2

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        if tokens is None or self.keep >= 1:
            return lambda step, history: None
        cell, count = tokens.cells()
        kept = max(1, ceil(self.keep * count))
        if kept >= count:
            return lambda step, history: None
        detail = 0.0 if tokens.occupancy is None else unit(high_frequency(tokens.occupancy, tokens.places, self.cutoff))

        def choose(step: int, history: History[Evaluation]) -> Tensor | None:
            if step < self.warmup:
                return None
            (newest,) = history[0].v.values()
            score = _norm(newest)
            motion = unit(score)
            if len(history) > 1:
                (before,) = history[1].v.values()
                motion = motion + self.gamma * unit(_norm(newest - before))
            saliency = 0.5 * motion + 0.5 * detail
            return history.syncs.rows(top_cells(saliency, cell, count, kept)[cell])

        return choose


def unit(values: Tensor) -> Tensor:
    """Scaled to 0..1 by the least and the greatest; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def top_cells(score: Tensor, cell: Tensor, count: int, kept: int) -> Tensor:
    """The `kept` cells with the greatest mean score; of equal ones the first.

    Args:
        score: [N] of the tokens. cell: [N] int64, the cell of each. count: of cells.

    Returns:
        [count] bool.
    """
    total, size = (cell_sums(values, cell, count) for values in (score, torch.ones_like(score)))
    order = torch.sort(total / size, descending=True, stable=True).indices
    return torch.zeros(count, dtype=torch.bool, device=score.device).index_fill(0, order[:kept], True)


def _norm(velocity: Tensor) -> Tensor:
    """[1, N, C] -> [N]."""
    return velocity[0].norm(dim=-1)
