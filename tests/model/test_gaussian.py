"""Gaussian container."""

from __future__ import annotations

import numpy as np
import torch

from fast_sam3d.model.gaussian import SH_C0, Gaussians


def some(n: int = 5) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians.from_values(
        xyz=torch.rand(n, 3, generator=generator) - 0.5,
        features_dc=torch.randn(n, 1, 3, generator=generator),
        log_scaling=torch.randn(n, 3, generator=generator) - 4,
        rotation=torch.randn(n, 4, generator=generator),
        opacity_logit=torch.randn(n, 1, generator=generator),
    )


def test_accessors_apply_the_activations():
    gaussians = some()
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(5, 3, generator=generator) - 0.5
    torch.testing.assert_close(gaussians.get_xyz, xyz)
    torch.testing.assert_close(gaussians.get_scaling.log(), gaussians._scaling)
    torch.testing.assert_close(torch.logit(gaussians.get_opacity), gaussians._opacity)
    torch.testing.assert_close(gaussians.get_rotation.norm(dim=-1), torch.ones(5))
    assert gaussians.get_features.shape == (5, 1, 3) and len(gaussians) == 5


def test_constant_of_the_zeroth_spherical_harmonic():
    assert abs(SH_C0 - 0.5 / np.sqrt(np.pi)) < 1e-12
