"""The published gaussian decoders: structured latent to a number of gaussians per voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.model.config import _positive
from fast_sam3d.model.gaussian import Gaussians
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.native.trunk import Trunk, TrunkConfig

__all__ = ["GaussianDecoder", "GaussianDecoderConfig", "PublishedGaussians", "hammersley"]

LAYOUT: Final = (3, 3, 3, 4, 1)
"""Values of each gaussian: offset, colour, scaling, rotation, opacity; all of one kind stand side by side."""


@dataclass(frozen=True)
class GaussianDecoderConfig(TrunkConfig):
    """Sizes of a gaussian decoder and the meaning of its values; the defaults are the published ones.

    Args:
        num_gaussians: per voxel, 32 and 4 as published.
        rates: factors on offset, colour, scaling, rotation and opacity.
        voxel_size: edge, in voxels, of the cube that offsets reach.
        perturb_offset: add the file's `offset_perturbation` to the offsets.
        scaling_bias: standard deviation of a scaling of 0. opacity_bias: opacity of an opacity of 0.
        kernel_size: smallest standard deviation.
    """

    num_gaussians: int = 32
    rates: tuple[float, ...] = (1.0, 1.0, 1.0, 0.1, 1.0)
    voxel_size: float = 1.5
    perturb_offset: bool = True
    scaling_bias: float = 0.004
    opacity_bias: float = 0.1
    kernel_size: float = 0.0009

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rates", tuple(self.rates))
        _positive(self, "num_gaussians", "voxel_size", "scaling_bias", "opacity_bias")
        if len(self.rates) != len(LAYOUT):
            raise ValueError(f"rates must be {len(LAYOUT)} factors, got {self.rates}")
        if not 0 < self.opacity_bias < 1:
            raise ValueError(f"opacity_bias must lie between 0 and 1, got {self.opacity_bias}")


def hammersley(count: int) -> Tensor:
    """The Hammersley set, [count, 3] float32 in 0..1: i / count, and i mirrored at the point in base 2 and base 3."""

    def mirrored(number: int, base: int) -> float:
        value, place = 0.0, 1.0 / base
        while number:
            value += (number % base) * place
            number, place = number // base, place / base
        return value

    rows = [[i / count, mirrored(i, 2), mirrored(i, 3)] for i in range(count)]
    return torch.tensor(rows, dtype=torch.float32)


class PublishedGaussians(Gaussians):
    """Gaussians of the published decoders: raw values are relative to biases, and scales pass through a softplus.

    Attributes, and the file of `save_gaussians_ply`, equal those of the stock class
    (sam3d_objects/model/backbone/tdfy_dit/representations/gaussian/gaussian_model.py, `Gaussian`).

    Args:
        config: biases and kernel size.
        device: of the tensors.
    """

    def __init__(self, config: GaussianDecoderConfig, device: str | torch.device = "cpu") -> None:
        super().__init__(device=device)
        self.mininum_kernel_size = config.kernel_size  # sic, as the stock attribute
        bias = torch.tensor(config.scaling_bias, device=device)
        self.scale_bias = bias + torch.log(-torch.expm1(-bias))  # inverse of the softplus
        self.opacity_bias = torch.logit(torch.tensor(config.opacity_bias, device=device))
        self.rots_bias = torch.tensor([1.0, 0.0, 0.0, 0.0], device=device)

    @property
    def get_scaling(self) -> Tensor:
        """[n, 3] standard deviations in object units."""
        return (F.softplus(self._scaling + self.scale_bias).square() + self.mininum_kernel_size**2).sqrt()

    @property
    def get_rotation(self) -> Tensor:
        """[n, 4] unit quaternions, wxyz."""
        return F.normalize(self._rotation + self.rots_bias, dim=-1)

    @property
    def get_opacity(self) -> Tensor:
        """[n, 1] in 0..1."""
        return torch.sigmoid(self._opacity + self.opacity_bias)


class GaussianDecoder(Trunk):
    """Structured latent to gaussians around the middle of each voxel.

    Source: the stock class (sam3d_objects/model/backbone/tdfy_dit/models/structured_latent_vae/decoder_gs.py).

    Args:
        config: sizes.
    """

    config: GaussianDecoderConfig

    def __init__(self, config: GaussianDecoderConfig) -> None:
        super().__init__(config)
        self.num_gaussians = config.num_gaussians
        self.out_channels = config.num_gaussians * sum(LAYOUT)
        self.out_layer = nn.Linear(config.model_channels, self.out_channels)
        perturbation = torch.atanh((hammersley(config.num_gaussians) * 2 - 1) / config.voxel_size)
        self.register_buffer("offset_perturbation", perturbation)  # in the file

    def decode_once(self, slat: SparseTensor) -> SparseTensor:
        h = self.encode_tokens(slat)
        return h.replace(self.out_layer(F.layer_norm(h.feats.float(), h.feats.shape[1:])))

    @torch.no_grad()
    def forward(self, slat: SparseTensor) -> list[PublishedGaussians]:
        """One set of gaussians per object: num_gaussians per voxel, one voxel after the other."""
        out = self.decode_finite(slat)
        return [self._gaussians(out.feats[rows], out.coords[rows]) for rows in out.layout]

    def _gaussians(self, values: Tensor, coords: Tensor) -> PublishedGaussians:
        """Gaussians of N voxels of one object: [N, out_channels], [N, 4]."""
        config, count = self.config, self.num_gaussians
        kinds: Any = values.split([count * size for size in LAYOUT], dim=1)
        offset, colour, scaling, rotation, opacity = (
            kind.reshape(len(values), count, size) * rate
            for kind, size, rate in zip(kinds, LAYOUT, config.rates, strict=True)
        )
        if config.perturb_offset:
            offset = offset + self.offset_perturbation
        middle = (coords[:, None, 1:].to(values.device).float() + 0.5) / config.resolution
        gaussians = PublishedGaussians(config, values.device)
        gaussians._xyz = (middle + offset.tanh() / config.resolution * 0.5 * config.voxel_size).flatten(0, 1)
        gaussians._features_dc = colour.flatten(0, 1)[:, None]
        gaussians._scaling, gaussians._rotation = scaling.flatten(0, 1), rotation.flatten(0, 1)
        gaussians._opacity = opacity.flatten(0, 1)
        return gaussians
