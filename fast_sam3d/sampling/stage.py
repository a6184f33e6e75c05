"""A sampling stage, as an adapter describes it to the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.guide.base import Guidance


class SolverError(FastSam3dError):
    """A solver that step caching does not work with."""


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
        coords: (args, kwargs) of the dynamics -> [N, 4] voxels of the state's tokens, or None without any.
            None: the tokens are not voxels, and all of them always run.
        subset: (args, kwargs, [K] indices) -> args and kwargs for those tokens alone; needed with `coords`.
        decode: (decoder, leaf `bare` [1, N, C]) -> occupancy logits [1, 1, R, R, R]; None: a state cannot be decoded.

    All functions are module-level ones, so that seams can be copied and pickled.
    """

    name: str
    bare: str
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guidance: Callable[[Callable[..., Any]], Guidance | None] = unguided
    coords: Callable[[Any, Any], Any] | None = None
    subset: Callable[[Any, Any, torch.Tensor], tuple[Any, Any]] | None = None
    decode: Callable[[Callable[..., Any], torch.Tensor], torch.Tensor] | None = None
