"""The difference of the two calls is reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.ranges import Whole, setting
from fast_sam3d.sampling.guide.base import Guide
from fast_sam3d.sampling.step import Leaves
from fast_sam3d.sampling.syncs import Syncs


@dataclass(frozen=True, slots=True)
class Reuse(Guide):
    """The unconditional velocity is the conditional one plus their difference of the last time that both were made.

    Source: FasterCache (arXiv 2410.19355), "CFG-Cache". It keeps the low and the high frequencies of the difference
    apart and weighs them by time; the tokens here are no picture, so the difference is kept whole.

    Args:
        interval: guided steps from one unconditional call to the next; 1 is every step.
        warmup: guided steps at which it is made first, at least 1.
    """

    name: ClassVar[str] = "reuse"
    interval: int = setting(5, Whole(1))
    warmup: int = setting(3, Whole(1))

    def start(self, syncs: Syncs | None = None) -> Reusing:
        """See `Guide`."""
        return Reusing(self)


class Reusing:
    """See `Guiding`."""

    def __init__(self, settings: Reuse) -> None:
        self._settings = settings
        self._guided = 0
        self._difference: dict[str, Tensor] = {}

    def stand_in(self, conditional: Leaves) -> Leaves | None:
        """See `Guiding`."""
        settings, step = self._settings, self._guided
        self._guided += 1
        if step < settings.warmup or (step - settings.warmup + 1) % settings.interval == 0:
            return None
        kept = self._difference
        # Of other tokens, where only some of them entered the network.
        if kept.keys() != conditional.keys() or any(kept[name].shape != c.shape for name, c in conditional.items()):
            return None
        return {name: c + kept[name] for name, c in conditional.items()}

    def learn(self, conditional: Leaves, unconditional: Leaves) -> None:
        """See `Guiding`."""
        self._difference = {name: unconditional[name] - c for name, c in conditional.items()}
