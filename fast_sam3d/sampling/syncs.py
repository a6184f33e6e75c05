"""Counts where the host waits for the device during a solve."""

from __future__ import annotations

import torch
from torch import Tensor


class Syncs:
    """The synchronisations of one solve: copies between host and device, and results whose size depends on values.

    A GPU works behind the host; each of these makes the host wait until it has caught up. Methods read values through
    here, so that the report can say how often; tests/test_devices.py compares the count with what is really asked for.
    On a CPU, where nothing waits, the count is the same.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def read(self, x: Tensor) -> Tensor:
        """The tensor on the host."""
        self.count += 1
        return x.cpu()

    def send(self, x: Tensor, device: torch.device) -> Tensor:
        """A tensor of the host on the device."""
        self.count += 1
        return x.to(device)

    def rows(self, mask: Tensor) -> Tensor:
        """[N] bool -> [K] int64 ascending, where it is true."""
        self.count += 1
        return mask.nonzero().flatten()
