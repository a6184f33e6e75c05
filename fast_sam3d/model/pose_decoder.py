"""Poses from the layout leaves that the sparse-structure sampler gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.pose import decode_pose


class PoseDecoder:
    """Layout leaves as the network gives them to a pose.

    Args:
        mean, std: per leaf and channel, of the leaves that `pose.encode_pose` makes.
    """

    def __init__(self, mean: Mapping[str, Sequence[float]], std: Mapping[str, Sequence[float]]) -> None:
        self.mean = {name: torch.tensor(values) for name, values in mean.items()}
        self.std = {name: torch.tensor(values) for name, values in std.items()}

    def __call__(self, result: Mapping[str, Tensor], scene_scale: Tensor, scene_shift: Tensor) -> dict[str, Tensor]:
        """rotation [B, 4] wxyz, translation [B, 3], scale [B, 3]; see `pose.decode_pose`."""
        leaves = {
            name: result[name].float().cpu() * self.std[name] + self.mean[name]
            for name in LAYOUT_CHANNELS
        }  # fmt: skip
        return decode_pose(leaves, scene_scale.cpu(), scene_shift.cpu())
