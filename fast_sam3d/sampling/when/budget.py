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
from fast_sam3d.sampling.syncs import Syncs
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
    threshold: float = setting(1.5, Real(1e-6, 1e6))
    warmup: int = setting(3, Whole(2))
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
            pairs: list[tuple[Leaves, Leaves | None]] = [(x, newest.x if before is None else before), (newest.v, None)]
            bends = newest.t != seen and len(history) > 1
            if bends:
                pairs += [(newest.v, history[1].v), (newest.x, history[1].x)]
            moved, speed, *bend = _sizes(pairs, history.syncs)
            if newest.t != seen:
                seen, spent = newest.t, 0.0
            if bends:
                curvature = bend[0] / max(bend[1], 1e-12)
                kappa = curvature if kappa is None else self.momentum * kappa + (1 - self.momentum) * curvature
            before = x
            if step < self.warmup or kappa is None:
                return True
            spent += kappa * moved / (speed + 1e-6)
            return not spent < self.threshold  # do not skip if the sum is NaN

        return decide


def _sizes(pairs: Sequence[tuple[Leaves, Leaves | None]], syncs: Syncs) -> list[float]:
    """Mean magnitude over all entries of all leaves, of the difference where there are two; reads the device once."""
    sums, counts = [], []
    for leaves, other in pairs:
        parts = [leaf if other is None else leaf - other[name] for name, leaf in leaves.items()]
        sums.append(torch.stack([part.abs().sum() for part in parts]).sum())
        counts.append(sum(part.numel() for part in parts))
    return [total / count for total, count in zip(syncs.read(torch.stack(sums)).tolist(), counts, strict=True)]
