"""What a way of making the unconditional call is, and the calls of one solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fast_sam3d.sampling.step import Leaves, Tree, like, to_leaves


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


class GuidedCalls:
    """Goes around the network's calls in one solve: the conditional one first, then that with the keyword cfg=True.

    That order and the keyword are those of sam3d_objects/model/backbone/generator/classifier_free_guidance.py.

    Args:
        guiding: decides.
        bare: the leaf name of a velocity that is a plain tensor.
    """

    def __init__(self, guiding: Guiding, bare: str) -> None:
        self._guiding = guiding
        self._bare = bare
        self._conditional: Tree | None = None
        self._spared = 0

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make the call, or stand in for it."""
        if not kwargs.get("cfg"):
            self._conditional = None  # of a step that failed
            self._conditional = call(*args, **kwargs)
            return self._conditional
        tree, self._conditional = self._conditional, None
        conditional = to_leaves(tree, self._bare)
        if tree is None or conditional is None:
            return call(*args, **kwargs)
        given = self._guiding.stand_in(conditional)
        if given is not None:
            self._spared += 1
            return like(tree, given)
        velocity = call(*args, **kwargs)
        unconditional = to_leaves(velocity, self._bare)
        if unconditional is not None:
            self._guiding.learn(conditional, unconditional)
        return velocity

    def take(self) -> int:
        """Calls spared since this was last asked."""
        spared, self._spared = self._spared, 0
        return spared
