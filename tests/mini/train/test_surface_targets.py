"""Targets of the gaussians on known surfaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fast_sam3d.mini.train.surface_targets import gaussian_loss, rotation_to_normal, surface_targets, z_axis
from fast_sam3d.model.slat_config import GaussianDecoderConfig
from fast_sam3d.model.slat_decoder import GaussianDecoder
from fast_sam3d.model.sparse import SparseTensor

RESOLUTION = 32
INNER = (torch.tensor([[x, y, z] for x in range(4) for y in range(4) for z in range(4)]) + 0.5) / 4


def sphere_samples(coords: torch.Tensor, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    points = (coords[:, None, 1:] + INNER) / RESOLUTION - 0.5
    return ((points.norm(dim=-1) - radius) * RESOLUTION).clamp(-1, 1), points + 0.5


@pytest.mark.parametrize("num_gaussians", [1, 4, 8])
def test_targets_lie_on_the_surface(shell, num_gaussians):
    coords = shell(10, 0.55, RESOLUTION)
    radius = 10 / RESOLUTION
    target = surface_targets(*sphere_samples(coords, radius), num_gaussians, RESOLUTION)
    assert target["valid"].float().mean() > 0.99
    point = (coords[:, None, 1:] + 0.5 + target["offset"]) / RESOLUTION - 0.5
    point, normal = point[target["valid"]], target["normal"][target["valid"]]
    assert ((point.norm(dim=-1) - radius) * RESOLUTION).abs().max() < 0.02
    assert (normal * F.normalize(point, dim=-1)).sum(dim=-1).min() > 0.99
    assert (target["rgb"][target["valid"]] - (point + 0.5)).abs().max() < 0.5 / RESOLUTION


def test_flat_surface_by_hand():
    """A plane z = 0.1 voxels above the centre: the four corners of a square in it, turned towards z."""
    sdf = (INNER[None, :, 2] - 0.5 - 0.1).contiguous()
    target = surface_targets(sdf, torch.full((1, 64, 3), 0.25), 4, RESOLUTION)
    assert sorted(target["offset"][0].mul(100).round().int().tolist()) == [
        [-25, -25, 10],
        [-25, 25, 10],
        [25, -25, 10],
        [25, 25, 10],
    ]
    torch.testing.assert_close(target["normal"], torch.tensor([0.0, 0, 1]).expand(1, 4, 3))
    torch.testing.assert_close(target["rotation"], torch.tensor([1.0, 0, 0, 0]).expand(1, 4, 4))
    torch.testing.assert_close(target["log_scaling"].exp()[0, 0] * RESOLUTION, torch.tensor([0.25, 0.25, 0.05]))


def test_voxel_without_surface_is_not_valid():
    target = surface_targets(torch.ones(2, 64), torch.zeros(2, 64, 3), 4, RESOLUTION)
    assert not target["valid"].any()
    assert all(torch.isfinite(v).all() for v in target.values())


def test_rotation_to_normal():
    normal = F.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    normal = torch.cat([normal, torch.tensor([[0.0, 0, -1], [0, 0, 1], [1, 0, 0]])])
    rotation = rotation_to_normal(normal)
    torch.testing.assert_close(rotation.norm(dim=-1), torch.ones(53))
    torch.testing.assert_close(z_axis(rotation), normal, atol=1e-5, rtol=0)


def test_loss_is_zero_at_the_targets_and_can_be_minimised(shell):
    coords = shell(10, 0.55, RESOLUTION)[:200]
    target = surface_targets(*sphere_samples(coords, 10 / RESOLUTION), 4, RESOLUTION)
    centre = (coords[:, None, 1:] + 0.5) / RESOLUTION - 0.5
    exact = {
        "xyz": centre + target["offset"] / RESOLUTION,
        "rgb": target["rgb"],
        "log_scaling": target["log_scaling"],
        "rotation": target["rotation"],
        "opacity_logit": torch.logit(0.05 + 0.9 * target["valid"].float())[..., None],
    }
    floor = gaussian_loss(exact, target, coords, RESOLUTION)
    torch.manual_seed(0)
    decoder = GaussianDecoder(GaussianDecoderConfig(model_channels=24, num_heads=2))
    # The latent holds what the decoder needs: the place of the surface.
    slat = SparseTensor(torch.cat([centre[:, 0], target["offset"][:, 0], centre[:, 0, :2]], dim=1), coords)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = gaussian_loss(decoder.decode_attributes(slat), target, coords, RESOLUTION)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert floor < 0.03
    assert losses[-1] < 0.3 * losses[0]


def test_invalid_shapes_are_refused():
    with pytest.raises(ValueError, match=r"sdf must be \[N, 64\]"):
        surface_targets(torch.zeros(2, 8), torch.zeros(2, 8, 3), 4, RESOLUTION)
    with pytest.raises(ValueError, match="num_gaussians"):
        surface_targets(torch.zeros(2, 64), torch.zeros(2, 64, 3), 3, RESOLUTION)
