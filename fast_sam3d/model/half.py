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

    `half_parts` is an attribute of the network, or of networks in it: the names of its parts, "" for all; without it,
    none. Of a network that runs under autocast these may be all: nothing is lost, since autocast casts them.

    Source: sam3d_objects/model/backbone/tdfy_dit/modules/utils.py, `convert_module_to_f16`.
    """
    for place, owner in network.named_modules():
        for part in getattr(owner, "half_parts", ()):
            # Duplicates too: a network that several parts share has a name in each.
            for name, module in owner.get_submodule(part).named_modules(remove_duplicate=False):
                if isinstance(module, MULTIPLIED):
                    for own, _ in module.named_parameters(recurse=False):
                        yield ".".join(filter(None, (place, part, name, own)))


def store_in_half(network: nn.Module, half: torch.dtype) -> nn.Module:
    """Convert the weights of `half_weights` in place; returns the network."""
    for name in list(half_weights(network)):
        parameter = network.get_parameter(name)
        parameter.data = parameter.data.to(half)
    return network
