"""The network calls of one solve, and the seam that they go through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from fast_sam3d.patch import Seam
from fast_sam3d.sampling.guide.base import Branch, Guiding
from fast_sam3d.sampling.precision import Autocast, in_types_of, wide
from fast_sam3d.sampling.step import Leaves, Tree, like, to_leaves
from fast_sam3d.sampling.syncs import Syncs


class GuidedCalls:
    """Acts around the network's calls in one solve: in a guided step the conditional one first, then the other.

    Several conditional calls in one step, one for each of several conditions, count by their mean.

    Args:
        guiding: decides.
        bare: the leaf name of a velocity that is a plain tensor.
    """

    def __init__(self, guiding: Guiding, bare: str) -> None:
        self._guiding = guiding
        self._bare = bare
        self._conditional: list[Tree] = []
        self._spared = 0

    def begin(self) -> None:
        """Begin a step."""
        self._conditional.clear()

    def __call__(self, branch: Branch | None, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make the call, or return a substitute for its result."""
        if branch == "conditional":
            velocity = call(*args, **kwargs)
            self._conditional.append(velocity)
            return velocity
        trees = [to_leaves(tree, self._bare) for tree in self._conditional]
        if not trees or None in trees:
            return call(*args, **kwargs)
        tree, conditional = self._conditional[-1], _mean([leaves for leaves in trees if leaves is not None])
        autocast = Autocast(next(iter(conditional.values())).device)
        with autocast.off():
            given = self._guiding.stand_in(wide(conditional))
            if given is not None:
                self._spared += 1
                return like(tree, in_types_of(conditional, given))
        velocity = call(*args, **kwargs)
        unconditional = to_leaves(velocity, self._bare)
        if unconditional is not None:
            with autocast.off():
                self._guiding.learn(wide(conditional), wide(unconditional))
        return velocity

    def take(self) -> int:
        """Calls saved since the last `take`."""
        spared, self._spared = self._spared, 0
        return spared


def _mean(trees: Sequence[Leaves]) -> Leaves:
    first = trees[0]
    if len(trees) == 1:
        return first
    sums = {name: torch.stack([wide(leaves)[name] for leaves in trees]).mean(dim=0) for name in first}
    return in_types_of(first, sums)


class Kept(Protocol):
    """What another part of the package keeps for the length of a solve."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        ...


@dataclass(eq=False)
class SolveState:
    """What the seams on a sampler's network share during one solve.

    Args:
        guided: None: every call that guidance asks for is made.
        syncs: counts where the host waits for the device.
        kept: `fast_sam3d.exact.context.Contexts`, once a saving has asked for it.
        live: `fast_sam3d.sampling.live.LiveLayout` of a method that evaluates the layout alone.
        branch: (network, args, kwargs) of a network call -> what it is for; see `SolveStage`.
    """

    guided: GuidedCalls | None = None
    syncs: Syncs = field(default_factory=Syncs)
    kept: Kept | None = None
    live: Any = None
    branch: Callable[[Any, Any, Any], Branch | None] = lambda network, args, kwargs: None


class NetworkSeam(Seam):
    """Replaces the `forward` of a sampler's network: (x, t, *condition, **kwargs).

    During a solve the layers' methods act around each call as `method(network, state, call, *args, **kwargs)`, the last
    layer outermost; at any other time the seam does nothing.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(network, "forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original()
        state = running_solve(self)
        for layer in self.layers if state is not None else ():
            if layer.method is not None:
                call = partial(layer.method, self.owner(), state, call)
        return call(*args, **kwargs)


def running_solve(seam: Seam) -> SolveState | None:
    """The solve in which a seam is called, None outside one."""
    scenes = (layer.scene for layer in reversed(seam.layers) if layer.scene is not None)
    return next((scene.solve for scene in scenes if scene.solve is not None), None)


def guide_call(network: Any, state: SolveState, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The method of guidance at a `NetworkSeam`."""
    if state.guided is None:
        return call(*args, **kwargs)
    return state.guided(state.branch(network, args, kwargs), call, *args, **kwargs)
