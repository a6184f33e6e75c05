"""A set of 3D gaussians with the accessors of the stock representation, and its PLY file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Constant of the first spherical harmonic: rgb = 0.5 + SH_C0 * features_dc."""

_PLY_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{i}" for i in range(3)),
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)


class Gaussians:
    """n gaussians of colour without view dependence.

    The raw values are kept as the stock representation keeps them: `_xyz` [n, 3] relative to the box `aabb`,
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
        gaussians.from_xyz(xyz.float())
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

    def from_xyz(self, xyz: Tensor) -> None:
        """Set the centres, [n, 3] in object units."""
        self._xyz = (xyz - self.aabb[:3]) / self.aabb[3:]

    def from_scaling(self, scaling: Tensor) -> None:
        """Set the standard deviations, [n, 3] > 0."""
        self._scaling = scaling.log()

    def from_rotation(self, rotation: Tensor) -> None:
        """Set the rotations, [n, 4] wxyz."""
        self._rotation = rotation

    def from_opacity(self, opacity: Tensor) -> None:
        """Set the opacities, [n, 1] in 0..1."""
        self._opacity = torch.logit(opacity)

    def from_features(self, features: Tensor) -> None:
        """Set the colour coefficients, [n, 1, 3]."""
        self._features_dc = features

    def save_ply(self, path: str | Path) -> None:
        """Write a standard 3DGS file: binary little-endian, opacity as logit, scale as logarithm, rotation wxyz.

        Args:
            path: file to write.
        """
        n = len(self)
        columns = [
            self.get_xyz,
            torch.zeros(n, 3),
            self._features_dc.reshape(n, 3),
            self._opacity,
            self._scaling,
            self.get_rotation,
        ]
        table = np.concatenate([c.detach().float().cpu().numpy() for c in columns], axis=1).astype("<f4")
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
        header += [f"property float {name}" for name in _PLY_FIELDS]
        with Path(path).open("wb") as file:
            file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
            file.write(np.ascontiguousarray(table).tobytes())
