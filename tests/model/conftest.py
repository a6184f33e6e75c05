"""Voxels for the tests of the sparse layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def shell() -> Callable[..., Tensor]:
    """Create the voxels of a closed spherical shell."""

    def make(radius: float, thickness: float, resolution: int, batch: int = 0) -> Tensor:
        """[N, 4] int32: voxels with centres within `thickness` voxels of the sphere, row-major."""
        axes = torch.meshgrid(*[torch.arange(resolution)] * 3, indexing="ij")
        voxels = torch.stack(axes, dim=-1).reshape(-1, 3)
        away = (voxels - (resolution - 1) / 2).norm(dim=1) - radius
        voxels = voxels[away.abs() < thickness]
        return torch.cat([torch.full((len(voxels), 1), batch), voxels], dim=1).to(torch.int32)

    return make


@pytest.fixture
def scatter() -> Callable[..., Tensor]:
    """Create random voxels."""

    def make(counts: list[int], resolution: int, seed: int = 0) -> Tensor:
        """[N, 4] int32: `counts[b]` distinct voxels of object b, in random order within the object."""
        generator = torch.Generator().manual_seed(seed)
        objects = []
        for batch, count in enumerate(counts):
            cells = torch.randperm(resolution**3, generator=generator)[:count]
            x, y, z = cells // resolution**2, cells // resolution % resolution, cells % resolution
            objects.append(torch.stack([torch.full_like(x, batch), x, y, z], dim=1))
        return torch.cat(objects).to(torch.int32)

    return make
