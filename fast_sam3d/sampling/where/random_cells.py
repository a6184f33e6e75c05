"""A random share of the tokens, as a control."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where.base import Choose, Where


@dataclass(frozen=True, slots=True)
class RandomCells(Where):
    """A random share of the 2x2x2 cells, drawn anew at every evaluated step: the control for any other choice.

    Args:
        keep: share of the cells that enter the network.
        seed: of a separate generator; the global random state does not change.
        warmup: steps that run on all tokens first, at least 1.
    """

    name: ClassVar[str] = "random"
    keep: float = setting(0.5, Real(1e-3, 1.0))
    seed: int = setting(0, Whole(0))
    warmup: int = setting(3, Whole(1))
    needs_tokens: ClassVar[bool] = True

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        if tokens is None or self.keep >= 1:
            return lambda step, history: None
        on_device, count = tokens.cells()
        device, cell, syncs = on_device.device, tokens.syncs.read(on_device), tokens.syncs
        kept = max(1, ceil(self.keep * count))
        generator = torch.Generator("cpu").manual_seed(self.seed)

        def choose(step: int, history: History[Evaluation]) -> Tensor | None:
            if step < self.warmup:
                return None
            chosen = torch.zeros(count, dtype=torch.bool, device="cpu")
            chosen[torch.randperm(count, generator=generator, device="cpu")[:kept]] = True
            return syncs.send(chosen[cell].nonzero().flatten(), device)

        return choose
