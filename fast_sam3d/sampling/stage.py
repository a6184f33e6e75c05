"""A sampling stage, as an adapter describes it to the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.guide.base import Branch, Guidance


class SolverError(FastSam3dError):
    """A solver that step caching does not work with."""


def by_keyword(dynamics: Callable[..., Any], network: Any, args: Any, kwargs: Any) -> Branch | None:
    """The branch where the unconditional call has the keyword cfg=True, and the network may zero its context then."""
    if not kwargs.get("cfg"):
        return "conditional"
    return "zeros" if getattr(network, "force_zeros_cond", False) else None


def works(dynamics: Callable[..., Any]) -> None:
    """Of dynamics with which every method works."""


def unguided(dynamics: Callable[..., Any]) -> None:
    """The guidance of dynamics without any."""


@dataclass(frozen=True)
class SolveStage:
    """A sampling stage, as an adapter describes it to the driver.

    Args:
        name: "ss" or "slat".
        bare: the leaf name of a state that is a plain tensor.
        groups: the leaves of each predict key of a configuration.
        guidance: dynamics -> the guidance that acts in them at this moment, None without any.
        coords: (state, args, kwargs) of the dynamics -> [N, 4] voxels of the state's tokens, or None without any.
            None: the tokens are not voxels, and all of them always run.
        subset: (state, args, kwargs, [K] indices, the same where the voxels are) -> state, args and kwargs for those
            tokens alone, or None where these cannot run alone; needed with `coords`.
        decode: (decoder, leaf `bare` [1, N, C]) -> occupancy logits [1, 1, R, R, R]; None: a state cannot be decoded.
        branch: (dynamics, network, args, kwargs of a network call) -> what it is for, None where that is unknown.
        unfit: dynamics -> why no method works in this solve, None where they do.
        follows: the stage whose method it takes where a configuration has none for it.

    All functions are module-level ones, so that seams can be copied and pickled.
    """

    name: str
    bare: str
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guidance: Callable[[Callable[..., Any]], Guidance | None] = unguided
    coords: Callable[[Any, Any, Any], Any] | None = None
    subset: Callable[[Any, Any, Any, torch.Tensor, torch.Tensor], tuple[Any, Any, Any] | None] | None = None
    decode: Callable[[Callable[..., Any], torch.Tensor], torch.Tensor] | None = None
    branch: Callable[[Callable[..., Any], Any, Any, Any], Branch | None] = by_keyword
    unfit: Callable[[Callable[..., Any]], str | None] = works
    follows: str = ""
