"""A network of the pipeline and the source of its weights: what loads it, and what decides when, meet here."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

__all__ = ["Part"]


class Part(Protocol):
    """One network, whose weights can be loaded and released any number of times.

    The module object stays the same, so that hooks and seams on it survive. Released, its parameters are on the meta
    device and take no memory.
    """

    name: str
    """As in the pipeline: "ss_generator", "ss_condition_embedder", "slat_decoder_mesh", "depth_model" ..."""
    module: nn.Module

    def size(self, half: torch.dtype | None) -> int:
        """Bytes that the loaded weights take; half: see `load`."""
        ...

    def load(self, device: torch.device, half: torch.dtype | None) -> None:
        """Read the weights tensor by tensor to a device.

        Args:
            half: type of the weights that are multiplied in half precision (linear layers and convolutions that the
                published pipeline runs in half); all others, and all with None, are float32.
        """
        ...

    def release(self) -> None:
        """Drop the weights."""
        ...
