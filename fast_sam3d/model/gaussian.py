"""A set of 3D gaussians with the accessors of the stock representation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Constant of the spherical harmonic of degree 0: rgb = 0.5 + SH_C0 * features_dc."""


class Gaussians:
    """n gaussians with view-independent colour.

    Raw values are stored as in the stock representation: `_xyz` [n, 3] relative to the box `aabb`,
    `_features_dc` [n, 1, 3], `_scaling` [n, 3] log standard deviation, `_rotation` [n, 4] wxyz of any length,
    `_opacity` [n, 1] logit. All float32.

    Args:
        aabb: corner (3) and edge lengths (3) of the box.
    """

    sh_degree = 0
    active_sh_degree = 0

    def __init__(
        self, aabb: Sequence[float] = (-0.5, -0.5, -0.5, 1.0, 1.0, 1.0), device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.aabb = torch.tensor(aabb, dtype=torch.float32, device=self.device)
        self._xyz = torch.zeros(0, 3, device=self.device)
        self._features_dc = torch.zeros(0, 1, 3, device=self.device)
        self._features_rest = None
        self._scaling = torch.zeros(0, 3, device=self.device)
        self._rotation = torch.zeros(0, 4, device=self.device)
        self._opacity = torch.zeros(0, 1, device=self.device)

    @classmethod
    def from_values(
        cls, xyz: Tensor, features_dc: Tensor, log_scaling: Tensor, rotation: Tensor, opacity_logit: Tensor
    ) -> Gaussians:
        """Gaussians at `xyz` [n, 3] (object units); the other arguments are the raw values, see the class."""
        gaussians = cls(device=xyz.device)
        gaussians._xyz = (xyz.float() - gaussians.aabb[:3]) / gaussians.aabb[3:]
        gaussians._features_dc = features_dc.float()
        gaussians._scaling = log_scaling.float()
        gaussians._rotation = rotation.float()
        gaussians._opacity = opacity_logit.float()
        return gaussians

    def __len__(self) -> int:
        return self._xyz.shape[0]

    @property
    def get_xyz(self) -> Tensor:
        """[n, 3] centres in object units."""
        return self._xyz * self.aabb[3:] + self.aabb[:3]

    @property
    def get_scaling(self) -> Tensor:
        """[n, 3] standard deviations in object units."""
        return self._scaling.exp()

    @property
    def get_rotation(self) -> Tensor:
        """[n, 4] unit quaternions, wxyz."""
        return F.normalize(self._rotation, dim=-1)

    @property
    def get_opacity(self) -> Tensor:
        """[n, 1] in 0..1."""
        return self._opacity.sigmoid()

    @property
    def get_features(self) -> Tensor:
        """[n, 1, 3] spherical-harmonic coefficients."""
        return self._features_dc
