"""Random weights at the sizes of a checkpoint, to see whether it fits and how fast it is without any files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.networks import build_networks, make_parts, share_one_encoder
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.weights import Tensors, WeightsPart

__all__ = ["RandomWeights", "synthetic_parts"]


class RandomWeights(Mapping[str, Tensor]):
    """Weights of a network, see `native.weights.Source`: created when they are read, equal each time.

    Norms and gains are ones, biases zeros, and everything else parts of one tensor of normal numbers, scaled so that
    magnitudes stay.

    Args:
        network: with the shapes, on the meta device.
        pool: [n] normal numbers, as many as the largest weight has.
    """

    def __init__(self, network: nn.Module, pool: Tensor) -> None:
        self._like, self._pool = network.state_dict(), pool

    def __getitem__(self, name: str) -> Tensor:
        shape = self._like[name].shape
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith(("weight", "gamma"))))
        outputs = shape[-1 if len(shape) == 3 else 0]  # [out, in], [out, in, k, k, k], or [27, in, out]
        return (self._pool[: shape.numel()] * (0.5 * math.sqrt(outputs / shape.numel()))).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        yield self

    def refuse(self, name: str, fault: str) -> CheckpointError:
        return CheckpointError(f"the random weights {fault.format(name)}")


def synthetic_parts(settings: NativeSettings, seed: int = 0) -> dict[str, WeightsPart]:
    """The parts of a checkpoint with random weights, whose embedders share one image encoder."""
    networks = build_networks(settings)
    share_one_encoder(networks)
    largest = max(tensor.numel() for network in networks.values() for tensor in network.state_dict().values())
    pool = torch.randn(largest, generator=torch.Generator().manual_seed(seed))
    return make_parts(networks, {name: {None: RandomWeights(n, pool)} for name, n in networks.items()}, settings)
