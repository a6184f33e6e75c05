"""Guidance ends once both calls agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fast_sam3d.ranges import Real, setting
from fast_sam3d.sampling.guide.base import Guide
from fast_sam3d.sampling.step import Leaves
from fast_sam3d.sampling.syncs import Syncs


@dataclass(frozen=True, slots=True)
class Adaptive(Guide):
    """The unconditional call is dropped for the rest of a solve once both velocities point the same way.

    From then on the velocity is the conditional one, as where the guidance's interval has ended.

    Source: Adaptive Guidance (arXiv 2312.12487), section 4. The cosine is taken over all leaves together, so the
    shape's many numbers decide.

    Args:
        threshold: cosine of the two, -1 to 1; above 1 nothing is dropped.
    """

    name: ClassVar[str] = "adaptive"
    threshold: float = setting(0.99, Real(-1.0, 2.0))

    def start(self, syncs: Syncs | None = None) -> Dropping:
        """See `Guide`."""
        return Dropping(self.threshold, Syncs() if syncs is None else syncs)


class Dropping:
    """See `Guiding`."""

    def __init__(self, threshold: float, syncs: Syncs) -> None:
        self._syncs = syncs
        self._threshold = threshold
        self._dropped = False

    def stand_in(self, conditional: Leaves) -> Leaves | None:
        """See `Guiding`."""
        return conditional if self._dropped else None

    def learn(self, conditional: Leaves, unconditional: Leaves) -> None:
        """See `Guiding`."""
        self._dropped = cosine(conditional, unconditional, self._syncs) >= self._threshold


def cosine(a: Leaves, b: Leaves, syncs: Syncs) -> float:
    """Of the angle between two trees taken as vectors; 0 where one has no length. Reads the device once."""
    rows = []
    for name, left in a.items():
        right = b[name]
        # No dot products: a GPU may be set to take those in TF32.
        rows.append(torch.stack([(left * right).sum(), left.square().sum(), right.square().sum()]))
    inner, xx, yy = syncs.read(torch.stack(rows).sum(0)).tolist()
    return inner / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else 0.0
