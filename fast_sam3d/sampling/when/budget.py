"""An adaptive schedule: a budget of expected change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from fast_sam3d.ranges import Real, Whole, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Budget(When):
    """The first `warmup` steps, then whenever the expected relative change since the last evaluation reaches a budget.

    Each step x has moved on from the last adds kappa mean|dx| / mean|v| to the change, where kappa is the curvature of
    the trajectory: mean|dv| / mean|dx| between two evaluations, smoothed. An evaluation resets the sum.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.3, with the budget of its public release (1.5); the same rule as
    EasyCache (arXiv 2507.02860). The release mixes intervals of different length in kappa; here both differences are
    between the same two evaluations.

    Args:
        threshold: the budget, above 0; 1 is a change as large as the velocity itself.
        warmup: steps evaluated first, at least 2, which kappa needs.
        momentum: share of the old kappa in the new one.
    """

    name: ClassVar[str] = "budget"
    threshold: float = setting(1.5, Real(1e-6, 1e6), tune=Real(0.02, 5.0, log=True))
    warmup: int = setting(3, Whole(2), tune=Whole(2, 6))
    momentum: float = setting(0.7, Real(0.0, 0.999))
    depth: ClassVar[int] = 2

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        kappa: float | None = None
        seen: float | None = None  # time of the newest evaluation in kappa
        before: Leaves | None = None
        spent = 0.0

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            nonlocal kappa, seen, before, spent
            newest = history[0]
            if newest.t != seen:
                seen, spent = newest.t, 0.0
                if len(history) > 1:
                    bend = _size(newest.v, history[1].v) / max(_size(newest.x, history[1].x), 1e-12)
                    kappa = bend if kappa is None else self.momentum * kappa + (1 - self.momentum) * bend
            moved = _size(x, newest.x if before is None else before)
            before = x
            if step < self.warmup or kappa is None:
                return True
            spent += kappa * moved / (_size(newest.v) + 1e-6)
            return not spent < self.threshold  # do not skip if the sum is NaN

        return decide


def _size(leaves: Leaves, other: Leaves | None = None) -> float:
    """Mean magnitude over all entries of all leaves, of the difference if there are two; reads the device once."""
    parts = [leaf.float() if other is None else leaf.float() - other[name].float() for name, leaf in leaves.items()]
    return float(torch.stack([part.abs().sum() for part in parts]).sum()) / sum(part.numel() for part in parts)
