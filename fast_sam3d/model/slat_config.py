"""Sizes of the structured-latent (SLaT) networks, and the published sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fast_sam3d.model.config import LARGEST, Convention, _convention, _divides, _positive, _within

CELLS_PER_AXIS: Final = 4
"""Fine cells along the edge of a voxel: two subdivisions."""

CELLS_PER_VOXEL: Final = CELLS_PER_AXIS**3
"""Fine cells of a voxel, row-major in (x, y, z): the order of training samples."""


@dataclass(frozen=True)
class SLatFlowConfig:
    """Structured-latent flow backbone.

    Args:
        resolution: edge of the occupancy grid.
        latent_channels: channels per voxel.
        model_channels: width of the packed tokens.
        num_blocks: transformer blocks of the torso.
        num_heads: attention heads; must divide model_channels.
        mlp_ratio: hidden width of the MLPs over model_channels.
        cond_channels: width of the context tokens.
        io_channels: width of the sparse convolutions at full resolution.
        num_io_blocks: residual blocks at the input, the last of which packs 2x2x2 voxels; as many at the output.
        share_mod: one adaLN layer for all blocks, instead of one each.
        qk_rms_norm: RMS-normalise queries and keys of the self-attention.
        qk_rms_norm_cross: the same for the cross-attention.
        convention: see `fast_sam3d.model.config.Convention`.
    """

    resolution: int = 32
    latent_channels: int = 8
    model_channels: int = 160
    num_blocks: int = 4
    num_heads: int = 5
    mlp_ratio: float = 3.0
    cond_channels: int = 192
    io_channels: int = 24
    num_io_blocks: int = 2
    share_mod: bool = True
    qk_rms_norm: bool = True
    qk_rms_norm_cross: bool = False
    convention: Convention = field(default="embedded", metadata={"in_file": False})

    def __post_init__(self) -> None:
        _convention(self, share_mod=False)
        _positive(self, "resolution", "latent_channels", "model_channels", "num_blocks", "num_heads", "mlp_ratio")
        _positive(self, "cond_channels", "io_channels", "num_io_blocks")
        _divides(self, "num_heads", "model_channels")


@dataclass(frozen=True)
class SLatEncoderConfig:
    """Signed-distance samples and colour of each voxel to its latent.

    Args:
        latent_channels: channels per voxel.
        model_channels: width of the per-voxel MLP.
        num_blocks: residual MLPs.
        use_conv: one sparse convolution after the first residual MLP, to include neighbouring voxels.
    """

    latent_channels: int = 8
    model_channels: int = 96
    num_blocks: int = 2
    use_conv: bool = True

    def __post_init__(self) -> None:
        _positive(self, "latent_channels", "model_channels", "num_blocks")


@dataclass(frozen=True)
class SLatTrunkConfig:
    """Windowed sparse transformer shared by the decoders.

    Args:
        resolution: edge of the occupancy grid.
        latent_channels: channels per voxel.
        model_channels: width of the tokens.
        num_blocks: transformer blocks; every other one has its windows shifted by half a window.
        num_heads: attention heads; must divide model_channels.
        mlp_ratio: hidden width of the MLPs over model_channels.
        window_size: edge of the attention windows in voxels.
    """

    resolution: int = 32
    latent_channels: int = 8
    model_channels: int = 64
    num_blocks: int = 2
    num_heads: int = 2
    mlp_ratio: float = 4.0
    window_size: int = 8

    def __post_init__(self) -> None:
        _positive(self, "resolution", "latent_channels", "model_channels", "num_blocks", "num_heads", "mlp_ratio")
        _positive(self, "window_size")
        _divides(self, "num_heads", "model_channels")


@dataclass(frozen=True)
class MeshDecoderConfig(SLatTrunkConfig):
    """Mesh decoder: the trunk, two subdivisions, and one field vector per fine cell.

    Args:
        upsample_channels: width after the first and the second subdivision.
        out_channels: per fine cell; 0 is signed distance in voxels, 1..3 are colour, further ones are unused here.
        min_component: mesh components with a smaller share of the faces are dropped; 0 for none.
    """

    upsample_channels: tuple[int, int] = (32, 16)
    out_channels: int = 4
    min_component: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.upsample_channels) != 2 or not all(0 < width <= LARGEST for width in self.upsample_channels):
            raise ValueError(f"upsample_channels must be two numbers from 1 to {LARGEST}, got {self.upsample_channels}")
        if self.out_channels < 4:
            raise ValueError(f"out_channels must be at least 4 (distance and colour), got {self.out_channels}")
        _within(self, "out_channels")
        if not 0 <= self.min_component < 1:
            raise ValueError(f"min_component must be in [0, 1), got {self.min_component}")


@dataclass(frozen=True)
class GaussianDecoderConfig(SLatTrunkConfig):
    """Gaussian decoder: the trunk, then a few gaussians per voxel.

    Args:
        num_gaussians: per voxel; 1, 4, 8 or 32.
        reach: maximum distance of a centre from its voxel's centre along each axis, in voxels.
    """

    num_gaussians: int = 4
    reach: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "reach")
        if self.num_gaussians not in (1, 4, 8, 32):
            raise ValueError(f"num_gaussians must be 1, 4, 8 or 32, got {self.num_gaussians}")


PUBLISHED_SLAT: Final = SLatFlowConfig(
    resolution=64,
    model_channels=1024,
    num_blocks=24,
    num_heads=16,
    mlp_ratio=4.0,
    cond_channels=1024,
    io_channels=128,
    num_io_blocks=2,
    share_mod=False,
    convention="published",
)
"""The published structured-latent backbone."""

PUBLISHED_SLAT_CONTEXT: Final = (5496, 1024)
"""Context tokens and their width at the published sizes."""

_PUBLISHED_TRUNK: Final[dict[str, Any]] = {
    "resolution": 64,
    "model_channels": 768,
    "num_blocks": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "window_size": 8,
}
"""The published sizes that the decoders share."""

PUBLISHED_MESH: Final = MeshDecoderConfig(
    **_PUBLISHED_TRUNK,
    upsample_channels=(192, 96),
    out_channels=101,
)
"""The published sizes of the mesh decoder."""

PUBLISHED_GAUSSIANS: Final = GaussianDecoderConfig(
    **_PUBLISHED_TRUNK,
    num_gaussians=32,
)
"""The published sizes of the gaussian decoder."""
