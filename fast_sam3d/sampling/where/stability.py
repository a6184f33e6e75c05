"""Holds tokens of the sparse structure with settled voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where.base import Choose, Held, Where
from fast_sam3d.sampling.where.saliency import unit


@dataclass(frozen=True, slots=True)
class Stability(Where):
    """As many tokens of the sparse structure keep their velocity as its voxels are expected to have settled.

    How many voxels flip between the shapes that the first steps point at, sigma, is decoded once; the expected number
    falls as sigma exp(-decay (step - 1)) from there. A token stands for (R / edge)^3 voxels (64), so all but the
    expected number over that are held: those with the least 0.7 |change of v| + 0.3 |v|, each scaled to 0..1. None is
    held more than `longest` times in a row, nor at all in the first steps and every `refresh` steps.

    Source: Fast3DCache (arXiv 2511.22533). There the held tokens leave the network; here all tokens of a structure run
    or none, so holding saves nothing, and only the steps that `late` skips do. It shows what holding costs.

    Args:
        full: share of the steps that come first and hold nothing.
        decay: by which the expected number falls with every step, at least 0.
        refresh: steps from one that holds nothing to the next, at least 1.
        longest: steps that a token is held in a row.
        change: weight of the change against the magnitude, 0 to 1.
    """

    name: ClassVar[str] = "stability"
    full: float = setting(0.2, Real(0.0, 1.0))
    decay: float = setting(0.07, Real(0.0, 100.0))
    refresh: int = setting(8, Whole(1))
    longest: int = setting(3, Whole(1))
    change: float = setting(0.7, Real(0.0, 1.0))
    needs_decoder: ClassVar[bool] = True
    depth: ClassVar[int] = 2

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        if tokens is None or tokens.decode is None:
            return lambda step, history: None
        decode, count = tokens.decode, len(tokens.coords)
        first = max(2, math.ceil(self.full * tokens.steps))
        flipped: float | None = None
        held: Tensor | None = None  # [N] how many times in a row

        def choose(step: int, history: History[Evaluation]) -> Held | None:
            nonlocal flipped, held
            if flipped is None and len(history) > 1:
                now, before = (decode(shape_data(e)) > 0 for e in (history[0], history[1]))
                flipped = float(history.syncs.read((now != before).sum())) / (now[0].numel() / count)
            velocity = shape(history[0].v)
            if held is None:
                held = torch.zeros(count, dtype=torch.int64, device=velocity.device)
            if flipped is None or step < first or (step - first) % self.refresh == 0:
                held.zero_()
                return None
            budget = count - math.ceil(flipped * math.exp(-self.decay * (step - 1)))
            restless = held >= self.longest
            moves = unit((velocity - shape(history[1].v)).norm(dim=-1))
            score = self.change * moves + (1 - self.change) * unit(velocity.norm(dim=-1))
            order = torch.sort(score.masked_fill(restless, torch.inf), stable=True).indices
            still = torch.zeros_like(restless).index_fill(0, order[: max(0, budget)], True) & ~restless
            held = torch.where(still, held + 1, 0)
            return Held(still)

        return choose


def shape(leaves: Leaves) -> Tensor:
    """[N, C] the leaf that holds the shape: the one with most tokens."""
    return max(leaves.values(), key=lambda leaf: leaf.shape[-2])[0]


def shape_data(evaluation: Evaluation) -> Tensor:
    """[1, N, C] the shape that an evaluation points at."""
    name = max(evaluation.x, key=lambda leaf: evaluation.x[leaf].shape[-2])
    return (evaluation.x[name] + (1 - evaluation.t) * evaluation.v[name])[:1]
