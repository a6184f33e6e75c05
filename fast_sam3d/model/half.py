"""Which weights of a network are stored in half precision, and networks with those in half."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from fast_sam3d.model.sparse import SparseConv3d

__all__ = ["half_weights", "store_in_half"]

MULTIPLIED = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, SparseConv3d)
"""Layers that are computed in half precision; norms, gains and position codes stay in float32."""


def half_weights(network: nn.Module) -> Iterator[str]:
    """Names of the parameters that half precision stores: of linear layers and convolutions in `half_parts`.

    `half_parts` is an attribute of the network: the names of its parts, "" for all; without it, none.

    Source: sam3d_objects/model/backbone/tdfy_dit/modules/utils.py, `convert_module_to_f16`.
    """
    parts = getattr(network, "half_parts", ())
    for name, module in network.named_modules():
        if isinstance(module, MULTIPLIED) and any(not part or f"{name}.".startswith(f"{part}.") for part in parts):
            yield from (f"{name}.{own}" if name else own for own, _ in module.named_parameters(recurse=False))


def store_in_half(network: nn.Module, half: torch.dtype) -> nn.Module:
    """Convert the weights of `half_weights` in place; returns the network."""
    for name in list(half_weights(network)):
        parameter = network.get_parameter(name)
        parameter.data = parameter.data.to(half)
    return network
