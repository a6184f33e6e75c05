"""Sensitivity of the structure decoder to errors of the latent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fast_sam3d.mini.train.sensitivity import sensitivity, weighting_factor

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Voxel logits that are a gain times one channel of their cell."""

    def __init__(self, gains: Tensor) -> None:
        super().__init__()
        self.gains = gains

    def forward(self, grid: Tensor) -> Tensor:
        return self.gains[:, None, None, None] * grid


def looked_at(gains: Tensor, shapes: int = 64) -> Tensor:
    latents = torch.zeros(shapes, 4**3, len(gains)).half()
    return sensitivity(Linear(gains), latents, 2, torch.Generator().manual_seed(0), CPU)


def test_sensitivity_equals_the_fisher_information_by_hand():
    information = looked_at(torch.tensor([1.0, 0.0, 2.0]), 512)
    assert information.shape == (24, 24)
    torch.testing.assert_close(information, information.T)
    assert information.diagonal().mean().item() == pytest.approx(1)
    diagonal = information.diagonal().reshape(8, 3).mean(0)
    # Logit g x: information g**2 p (1 - p), with p at x of standard deviation 0.4.
    x = 0.4 * torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([g**2 * (torch.sigmoid(g * x) * torch.sigmoid(-g * x)).mean() for g in (1, 0, 2)])
    torch.testing.assert_close(diagonal, expected / expected.mean(), rtol=0.03, atol=1e-6)
    # Voxels sampled independently have no mutual information.
    assert (information - torch.diag(information.diagonal())).abs().max() < 0.15


def test_same_generator_same_information():
    gains = torch.tensor([1.0, 0.5])
    assert torch.equal(looked_at(gains), looked_at(gains))


def test_a_share_of_the_error_is_weighted():
    information = torch.tensor([[1.5, 0.5], [0.5, 0.5]])
    for share in (0.0, 0.8):
        factor = weighting_factor(information, share)
        error = torch.tensor([1.0, -2.0])
        expected = (1 - share) * error @ error + share * error @ information @ error
        torch.testing.assert_close((error @ factor).square().sum(), expected)
    assert torch.equal(weighting_factor(information, 0.0), torch.eye(2))
