"""Small inputs and state dicts for the tests of the published decoders."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def shell(count: int, number: int = 0, seed: int = 0, resolution: int = 32) -> Tensor:
    """[count, 4] int32 coordinates of an object with many neighbours, in the order that argwhere finds them."""
    axes = torch.meshgrid(*[torch.arange(resolution)] * 3, indexing="ij")
    centre = torch.rand(3, generator=torch.Generator().manual_seed(seed + number)) * 4 + resolution / 2 - 2
    places = torch.stack(axes, -1).reshape(-1, 3)
    near = (places - centre).norm(dim=1).sub(resolution / 6).abs().topk(count, largest=False).indices.sort().values
    return torch.cat([torch.full((count, 1), number), places[near]], dim=1).int()


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a published decoder under our names and in our layout; see `fast_sam3d.native.names`."""
    found = {}
    for key, value in state.items():
        if key.startswith("upsample.") and ".conv." in key:
            key = key.replace(".conv.", ".")
            if value.dim() == 5:  # [out, k, k, k, in]
                outer, *_, inner = value.shape
                one = value.shape[1] == 1
                value = value.reshape(inner, outer).T if one else value.flatten(1, 3).permute(1, 2, 0)
        found[key] = value
    return found
