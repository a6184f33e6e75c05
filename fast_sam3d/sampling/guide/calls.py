"""The network calls of one solve, and the seam that they go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from fast_sam3d.patch import Seam
from fast_sam3d.sampling.guide.base import Guiding
from fast_sam3d.sampling.precision import Autocast, in_types_of, wide
from fast_sam3d.sampling.step import Tree, like, to_leaves
from fast_sam3d.sampling.syncs import Syncs


class GuidedCalls:
    """Acts around the network's calls in one solve: the conditional one first, then that with the keyword cfg=True.

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
        """Make the call, or return a substitute for its result."""
        if not kwargs.get("cfg"):
            self._conditional = None  # of a step that failed
            self._conditional = call(*args, **kwargs)
            return self._conditional
        tree, self._conditional = self._conditional, None
        conditional = to_leaves(tree, self._bare)
        if tree is None or conditional is None:
            return call(*args, **kwargs)
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
    """

    guided: GuidedCalls | None = None
    syncs: Syncs = field(default_factory=Syncs)
    kept: Kept | None = None
    live: Any = None


class NetworkSeam(Seam):
    """Replaces the `forward` of a sampler's network: (x, t, *condition, **kwargs), with `cfg=True` if unconditional.

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
    return call(*args, **kwargs) if state.guided is None else state.guided(call, *args, **kwargs)
