"""The rule for a method's own arithmetic: float32 or better, outside of autocast, whatever the network computes in.

`Solve` and `GuidedCalls` apply it, once for all methods: these get leaves in float32 or better, run with autocast off,
and their results are cast to the network's type. Networks and decoders run in the caller's autocast. In half precision,
a product of 32,768 values with themselves is above the greatest float16, and a difference of velocities is rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.sampling.step import Leaves


class Autocast:
    """The caller's autocast on a device, as it is at the last `read`.

    Args:
        device: reads it at once; None: none, until it is read.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._dtype: torch.dtype | None = None
        self._kind = "cpu"
        if device is not None:
            self.read(device)

    def read(self, device: torch.device) -> Autocast:
        """Take note of the caller's autocast, and return this."""
        kind = self._kind = device.type
        # Some devices have none, and even switching it off fails there.
        active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        self._dtype = torch.get_autocast_dtype(kind) if active else None
        return self

    def off(self) -> AbstractContextManager[Any]:
        """A block without it."""
        return nullcontext() if self._dtype is None else torch.autocast(self._kind, enabled=False)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call in it, from inside a block without."""
        if self._dtype is None:
            return function(*args, **kwargs)
        with torch.autocast(self._kind, self._dtype):
            return function(*args, **kwargs)


def wide(leaves: Leaves) -> dict[str, Tensor]:
    """Leaves in float32 or better; those that are so already are not copied."""
    return {name: leaf.to(torch.promote_types(leaf.dtype, torch.float32)) for name, leaf in leaves.items()}


def in_types_of(network: Leaves, leaves: Leaves) -> dict[str, Tensor]:
    """Leaves in the types that the network's own have."""
    return {name: leaf.to(network[name].dtype) for name, leaf in leaves.items()}
