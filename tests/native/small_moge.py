"""A small MoGe with random weights that sees a scene: most points are kept, and they fit some camera."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.native.moge import MoGeConfig
from fast_sam3d.native.vit import ViTConfig

# As in a file, under `model_config`.
SMALL: dict[str, Any] = {
    "encoder": "dinov2_vits14",
    "intermediate_layers": 2,
    "dim_proj": 32,
    "dim_upsample": [32, 32],
    "num_res_blocks": 1,
    "last_conv_channels": 32,
    "trained_area_range": [40 * 196, 60 * 196],
    "output_mask": True,
    "split_head": True,
}


TINY = MoGeConfig(
    encoder=ViTConfig(32, 4, 2, registers=0, by_scale=True), intermediate_layers=2, dim_proj=16, dim_upsample=(32, 32),
    num_res_blocks=1, num_tokens_range=(20, 40),
)  # fmt: skip


def see_a_scene(network: nn.Module, depth: float) -> None:
    """Give a network with MoGe's names random weights whose points spread with their place in the picture.

    Args:
        depth: of the points, before the remap of the output.
    """
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() > 1:
                value.normal_(0, 0.02 if "backbone" in name else (2 / value[0].numel()) ** 0.5)
            elif name.endswith("gamma") or (name.endswith("weight") and value.dim() == 1):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(0, 0.05)
        network.get_buffer("image_mean").add_(0.05)
        network.get_buffer("image_std").mul_(1.3)
        points, mask = network.get_submodule("head.output_block")
        first, last = points[0].weight, points[-1].weight
        first[:4] = last[:] = 0
        for axis, channel in ((0, -2), (1, -1)):  # the two last inputs are u and v
            for sign in (1, -1):
                hidden = 2 * axis + (sign < 0)
                first[hidden, channel, 1, 1] = sign
                points[0].bias[hidden] = 0
                last[axis, hidden] = sign * 1.5
        last[2, 4:] = 0.02
        points[-1].bias.copy_(torch.tensor([0.0, 0.0, depth]))
        mask[-1].weight.mul_(0.15)
        mask[-1].bias.fill_(1.0)


def picture(height: int, width: int) -> Tensor:
    """[3, H, W] in 0..1."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
