"""Sizes of the dense networks. Those of the sparse (SLaT) networks are in `slat_config.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

SHAPE_LEAF: Final = "shape"
"""Latent leaf of the sparse structure, and the name of the stream that carries it."""

LAYOUT_STREAM: Final = "6drotation_normalized"
"""Name of the stream that carries all layout leaves (the stock backbone names it after its first leaf)."""

LAYOUT_CHANNELS: Final[Mapping[str, int]] = MappingProxyType(
    {"6drotation_normalized": 6, "scale": 3, "translation": 3, "translation_scale": 1}
)
"""Channels of the four layout leaves, one token each, in the order of the stream."""

STREAMS: Final = (SHAPE_LEAF, LAYOUT_STREAM)


Convention: TypeAlias = Literal["embedded", "published"]
"""Which weights a sampling network fits: those of the embedded model, or the published ones.

The published networks have the sine before the cosine in position codes (in time it is the other way round), divide
pooled voxels by their count + 1, scale queries and keys to unit length without a floor, and normalise in float32.
Sources: sam3d_objects/model/backbone/tdfy_dit/modules/transformer/blocks.py (`AbsolutePositionEmbedder`),
modules/sparse/spatial.py (`SparseDownsample`), modules/attention/modules.py (`MultiHeadRMSNorm`), modules/norm.py.
"""


def _convention(config: object, **required: object) -> None:
    """Raise ValueError for an unknown convention, or a setting that no published network has."""
    name, value = type(config).__name__, config.convention  # type: ignore[attr-defined]
    if value not in get_args(Convention):
        raise ValueError(f"{name}.convention must be one of {', '.join(get_args(Convention))}, got {value!r}")
    for key, needed in required.items() if value == "published" else ():
        if getattr(config, key) != needed:
            raise ValueError(
                f"{name}.{key} is {getattr(config, key)!r}: networks of the published convention have {needed!r}"
            )


LARGEST: Final = 4096
"""Upper limit of whole numbers; four times the width of the widest published network."""

LARGEST_REAL: Final = 1e6
"""Upper limit of the other numbers, and of their negatives."""

MOST: Final[Mapping[str, int]] = MappingProxyType({
    "blocks": 128, "depth": 128, "downsample_ss_dist": 8, "heads": 256, "image_size": 1024, "inference_steps": 1000,
    "input_size": 1024, "last_res_blocks": 32, "mlp_ratio": 64, "multiplier": 64, "num_blocks": 128, "num_heads": 256,
    "num_io_blocks": 16, "num_register_tokens": 64, "num_res_blocks": 32, "num_res_blocks_middle": 32,
    "resolution": 256, "size": 1024, "slat_inference_steps": 1000, "ss_inference_steps": 1000, "window_size": 256,
})  # fmt: skip
"""Lower upper limits of settings that cost time or memory before weights are compared, or that no weights show."""

MOST_TOKENS: Final = 4096
"""Of a transformer with full attention, as published."""


def most(name: str) -> int:
    """The largest value of a setting of a network."""
    return MOST.get(name, LARGEST)


def _positive(config: object, *names: str) -> None:
    """Raise ValueError unless settings are above 0 and within their limits."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{type(config).__name__}.{name} must be positive, got {value!r}")
        _within(config, name)


def _within(config: object, name: str) -> None:
    """Raise ValueError for a setting over its limit."""
    if (value := getattr(config, name)) > most(name):
        raise ValueError(f"{type(config).__name__}.{name} must be at most {most(name)}, got {value!r}")


def _few_tokens(config: object, per_edge: int, axes: int) -> None:
    """Raise ValueError for a grid with more cells than `MOST_TOKENS`."""
    if per_edge**axes > MOST_TOKENS:
        raise ValueError(
            f"{type(config).__name__} has {per_edge}**{axes} tokens, and at most {MOST_TOKENS} are supported"
        )


def _divides(config: object, small: str, large: str) -> None:
    if getattr(config, large) % getattr(config, small):
        raise ValueError(
            f"{type(config).__name__}.{large}={getattr(config, large)} is not a multiple of"
            f" {small}={getattr(config, small)}"
        )


@dataclass(frozen=True)
class SSFlowConfig:
    """Sparse-structure flow backbone.

    Args:
        model_channels: width of both streams.
        num_blocks: transformer blocks.
        num_heads: attention heads; must divide model_channels.
        mlp_ratio: hidden width of the MLPs over model_channels.
        cond_channels: width of the context tokens.
        resolution: edge of the shape latent's grid; the leaf has resolution**3 tokens.
        latent_channels: channels of the shape leaf.
        patch_size: edge of the block of cells that becomes one token of the shape stream; must divide resolution.
        share_mod: one adaLN layer for all blocks (plus a learned offset per block) instead of one layer each.
        qk_rms_norm: RMS-normalise queries and keys of the self-attention.
        qk_rms_norm_cross: the same for the cross-attention.
        is_shortcut_model: embed the step size d next to the time.
        layout_mlp_ratio: mlp_ratio of the layout stream, which has only four tokens; None means mlp_ratio.
        convention: see `Convention`. A published network has patch_size 1, and its shape leaf's position code is a
            tensor of the file.
    """

    model_channels: int = 192
    num_blocks: int = 6
    num_heads: int = 6
    mlp_ratio: float = 4.0
    cond_channels: int = 192
    resolution: int = 8
    latent_channels: int = 8
    patch_size: int = 2
    share_mod: bool = False
    qk_rms_norm: bool = True
    qk_rms_norm_cross: bool = False
    is_shortcut_model: bool = True
    layout_mlp_ratio: float | None = None
    convention: Convention = field(default="embedded", metadata={"in_file": False})

    def __post_init__(self) -> None:
        _convention(self, patch_size=1, share_mod=False)
        _positive(self, "model_channels", "num_blocks", "num_heads", "mlp_ratio", "cond_channels")
        _positive(self, "resolution", "latent_channels", "patch_size")
        if self.layout_mlp_ratio is not None:
            _positive(self, "layout_mlp_ratio")
        _divides(self, "num_heads", "model_channels")
        _divides(self, "patch_size", "resolution")
        _few_tokens(self, self.resolution // self.patch_size, 3)

    @property
    def leaf_shapes(self) -> dict[str, tuple[int, int]]:
        """(tokens, channels) of every latent leaf, without the batch."""
        shapes = {SHAPE_LEAF: (self.resolution**3, self.latent_channels)}
        shapes.update({name: (1, channels) for name, channels in LAYOUT_CHANNELS.items()})
        return shapes


@dataclass(frozen=True)
class SSEncoderConfig:
    """Occupancy grid to latent grid, all convolutions at latent resolution.

    Args:
        resolution: edge of the occupancy grid.
        patch_size: edge of the cells folded into channels; resolution / patch_size is the latent grid's edge.
        latent_channels: channels of the latent.
        model_channels: width of the convolutions; a multiple of 8 (group norm).
        num_res_blocks: residual blocks of two 3x3x3 convolutions.
    """

    resolution: int = 32
    patch_size: int = 4
    latent_channels: int = 8
    model_channels: int = 64
    num_res_blocks: int = 2

    def __post_init__(self) -> None:
        _positive(self, "resolution", "patch_size", "latent_channels", "model_channels", "num_res_blocks")
        _divides(self, "patch_size", "resolution")
        if self.model_channels % 8:
            raise ValueError(f"model_channels must be a multiple of 8, got {self.model_channels}")


@dataclass(frozen=True)
class SSDecoderConfig(SSEncoderConfig):
    """Latent grid to occupancy logits: the mirrored encoder with an optional small stage at twice the resolution.

    Args:
        refine_channels: width of one 3x3x3 convolution at twice the latent resolution, which connects voxels of
            neighbouring cells; 0 for none. Needs an even patch_size.
    """

    refine_channels: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refine_channels < 0:
            raise ValueError(f"refine_channels must be 0 or more, got {self.refine_channels}")
        _within(self, "refine_channels")
        if self.refine_channels and self.patch_size % 2:
            raise ValueError(f"a refining stage needs an even patch_size, got {self.patch_size}")


@dataclass(frozen=True)
class EmbedderConfig:
    """Condition embedder: a crop of colour, mask and points to context tokens.

    Args:
        image_size: edge of the square crop in pixels.
        patch_size: edge of the patches in pixels.
        in_channels: 3 colour + 1 mask + 3 points.
        model_channels: width of the tokens (= the flows' cond_channels).
        num_blocks: pre-norm transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over model_channels.
        descriptor_channels: length of the crop descriptor, which becomes an additional token; 0 for none.
    """

    image_size: int = 64
    patch_size: int = 8
    in_channels: int = 7
    model_channels: int = 192
    num_blocks: int = 2
    num_heads: int = 6
    mlp_ratio: float = 4.0
    descriptor_channels: int = 8

    def __post_init__(self) -> None:
        _positive(self, "image_size", "patch_size", "model_channels", "num_heads", "mlp_ratio")
        _divides(self, "patch_size", "image_size")
        _divides(self, "num_heads", "model_channels")
        if self.in_channels != 7:
            raise ValueError(f"in_channels must be 7 (3 colour, 1 mask, 3 points), got {self.in_channels}")
        for name in ("num_blocks", "descriptor_channels"):
            if getattr(self, name) < 0:
                raise ValueError(f"EmbedderConfig.{name} must be 0 or more, got {getattr(self, name)}")
            _within(self, name)
        _few_tokens(self, self.image_size // self.patch_size, 2)

    @property
    def num_tokens(self) -> int:
        """Context tokens: one per patch, and one for the descriptor, if any."""
        return (self.image_size // self.patch_size) ** 2 + bool(self.descriptor_channels)


PUBLISHED_SS: Final = SSFlowConfig(
    model_channels=1024,
    num_blocks=24,
    num_heads=16,
    mlp_ratio=4.0,
    cond_channels=1024,
    resolution=16,
    latent_channels=8,
    patch_size=1,
    share_mod=False,
    qk_rms_norm=True,
    convention="published",
)
"""The published sparse-structure backbone."""

PUBLISHED_SS_CONTEXT: Final = (7528, 1024)
"""Context tokens and their width at the published sizes."""
