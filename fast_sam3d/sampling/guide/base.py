"""Classifier-free guidance as the pipeline sets it, and the interface of methods that save its calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from fast_sam3d.sampling.part import Part
from fast_sam3d.sampling.step import Leaves
from fast_sam3d.sampling.syncs import Syncs

Branch: TypeAlias = Literal["conditional", "zeros", "negative"]
"""What a network call of guidance is for: the condition; no condition, as zeros; or another one in its place."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """The pipeline's guidance during one solve.

    Args:
        strength: s of (1 + s) conditional - s unconditional, the greatest of all leaves, above 0.
        intervals: (first, last) network time at which guidance acts, both included, for each leaf with its own.
        time_scale: network time of t = 1.
        calls: network calls of a guided step.
        plain: network calls of any other step.
    """

    strength: float
    intervals: tuple[tuple[float, float], ...]
    time_scale: float = 1000.0
    calls: int = 2
    plain: int = 1

    def acts_at(self, t: float) -> bool:
        """Whether a step that starts at t (0 noise, 1 data) is guided."""
        # Compared in float32, as the pipeline does, so that a step at the end of an interval falls on the same side.
        time = np.float32(t * self.time_scale)
        return any(np.float32(low) <= time <= np.float32(high) for low, high in self.intervals)

    def calls_at(self, t: float) -> int:
        """Network calls of a step that starts at t."""
        return self.calls if self.acts_at(t) else self.plain


class Guiding(Protocol):
    """The state of a `Guide` during one solve.

    Leaves are velocities of the network before guidance mixes them, in float32 or better and outside of autocast
    (`fast_sam3d.sampling.precision`). A stand-in is cast to the network's type.
    """

    def stand_in(self, conditional: Leaves) -> Leaves | None:
        """The unconditional velocity without the network; None asks for the call."""
        ...

    def learn(self, conditional: Leaves, unconditional: Leaves) -> None:
        """Record both velocities of a step with both calls."""
        ...


class Guide(Part):
    """How the unconditional call of classifier-free guidance is made or saved."""

    __slots__ = ()

    def start(self, syncs: Syncs | None = None) -> Guiding | None:
        """Begin a solve. None: both calls are always made.

        Args:
            syncs: of the solve, through which values of tensors are read; None: they are not counted.
        """
        raise NotImplementedError
