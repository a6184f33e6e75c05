"""Operations on sets of active voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def surface_voxels(coords: Tensor, resolution: int, reach: int) -> Tensor:
    """Voxels [N, 4] with an empty one within `reach` along each axis (the border counts as empty), in their order."""
    b, x, y, z = coords.long().unbind(1)
    empty = torch.ones(int(b.max()) + 1, 1, *[resolution] * 3, device=coords.device)
    empty[b, 0, x, y, z] = 0
    near = F.max_pool3d(F.pad(empty, [reach] * 6, value=1.0), 2 * reach + 1, stride=1)
    return coords[near[b, 0, x, y, z] > 0]
