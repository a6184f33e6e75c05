"""Batches of conditions and layout targets for the flows: crops with simulated depth noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.mini.data.shards import Objects
from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.pose import encode_pose

POINT_NOISE = 0.02  # standard deviation in scene scales, on half of the crops
TINT = 0.1  # maximum change of each colour channel's gain


def poses(rows: np.ndarray) -> dict[str, Tensor]:
    """The stored pose rows [B, 17] by name: R [B, 3, 3], t [B, 3], size [B], scene_scale [B], scene_shift [B, 3]."""
    stored = torch.from_numpy(rows)
    return {
        "R": stored[:, :9].reshape(-1, 3, 3),
        "t": stored[:, 9:12],
        "size": stored[:, 12],
        "scene_scale": stored[:, 13],
        "scene_shift": stored[:, 14:17],
    }


def layout_targets(rows: np.ndarray) -> dict[str, Tensor]:
    """Layout leaves [B, 1, channels] of stored poses, before standardisation."""
    return encode_pose(**poses(rows))


def layout_statistics(rows: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of every channel of every layout leaf."""
    leaves = layout_targets(rows)
    return {
        name: {"mean": leaves[name].mean((0, 1)).tolist(), "std": leaves[name].std((0, 1)).clamp_min(0.05).tolist()}
        for name in LAYOUT_CHANNELS
    }


def standardise(leaves: dict[str, Tensor], statistics: dict[str, dict[str, list[float]]]) -> dict[str, Tensor]:
    """Standardised layout leaves, as the flow takes them."""
    return {
        name: (leaf - torch.tensor(statistics[name]["mean"])) / torch.tensor(statistics[name]["std"])
        for name, leaf in leaves.items()
    }


def crops(objects: Objects, rows: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Embedder inputs of some stored views.

    Args:
        rows: [B] int64, indices of views.
        generator: of the augmentation; None for none.

    Returns:
        image [B, 3, 64, 64] in 0..1, mask [B, 1, 64, 64], pointmap [B, 3, 64, 64], descriptor [B, 8], all float32.
    """
    index = rows.numpy()
    image = torch.from_numpy(objects.arrays["image"][index]).permute(0, 3, 1, 2).float() / 255
    mask = torch.from_numpy(objects.arrays["mask"][index])[:, None].float()
    points = torch.from_numpy(objects.arrays["pointmap"][index]).permute(0, 3, 1, 2).float()
    descriptor = torch.from_numpy(objects.arrays["descriptor"][index]).clone()
    if generator is not None:
        batch = len(rows)
        gain = 1 + TINT * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
        image = (image * gain).clamp(0, 1)
        noisy = (torch.rand(batch, 1, 1, 1, generator=generator) < 0.5).float() * POINT_NOISE
        known = (points != 0).any(1, keepdim=True)
        points = points + noisy * known * torch.randn(points.shape, generator=generator)
        blind = torch.rand(batch, generator=generator) < 0.3  # most pictures have no known focal length
        descriptor[blind, 4] = 0
    return {"image": image, "mask": mask, "pointmap": points, "descriptor": descriptor}
