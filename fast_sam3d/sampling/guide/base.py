"""The interface of guidance methods."""

from __future__ import annotations

from typing import Protocol

from fast_sam3d.sampling.step import Leaves


class Guiding(Protocol):
    """What a `Guide` remembers during one solve. Leaves are velocities of the network, before guidance mixes them."""

    def stand_in(self, conditional: Leaves) -> Leaves | None:
        """The unconditional velocity without the network; None asks for the call."""
        ...

    def learn(self, conditional: Leaves, unconditional: Leaves) -> None:
        """Both velocities of a step at which both calls were made."""
        ...


class Guide(Protocol):
    """Settings of the unconditional call of classifier-free guidance."""

    def start(self) -> Guiding | None:
        """Begin a solve. None: both calls are always made."""
        ...
