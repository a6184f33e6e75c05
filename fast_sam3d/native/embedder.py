"""Pictures, masks and maps of points to the context of a sampler.

Facts from sam3d_objects/model/backbone/dit/embedder/{dino,embedder_fuser}.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.model.config import _positive
from fast_sam3d.native.points import PointPatchEmbed, PointSettings
from fast_sam3d.native.vit import MEAN, STD, VisionTransformer, ViTConfig

__all__ = [
    "PUBLISHED_SLAT", "PUBLISHED_SS", "ConditionFuser", "EmbedderSettings", "EncoderSettings", "ImageEncoder",
    "published_inputs", "share_equal",
]  # fmt: skip

Inputs: TypeAlias = tuple[tuple[str, str | None], ...]
"""Names of inputs, each with the group whose learned code is added to its tokens; None: no code."""


@dataclass(frozen=True)
class EncoderSettings:
    """An image encoder.

    Args:
        size: pixels of an edge that pictures are resized to.
        normalize: subtract the mean of ImageNet's pictures and divide by their deviation.
        prenorm: every token before the network's final norm, with a layer norm without weights; otherwise the normed
            class token and patches, without the registers.
    """

    vit: ViTConfig = field(default_factory=ViTConfig)
    size: int = 518
    normalize: bool = True
    prenorm: bool = False

    def __post_init__(self) -> None:
        _positive(self, "size")
        if self.size % self.vit.patch:
            raise ValueError(
                f"EncoderSettings.size={self.size} is not a multiple of the patches' edge {self.vit.patch}"
            )


@dataclass(frozen=True)
class EmbedderSettings:
    """A condition embedder.

    Args:
        parts: encoders with their inputs; tokens follow in this order.
        multiplier: width of the projections over that of the context, of which they take two thirds; 0: none.
        drop: inputs whose tokens are multiplied by zero.
    """

    parts: tuple[tuple[EncoderSettings | PointSettings, Inputs], ...]
    multiplier: float = 4.0
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a condition embedder needs an encoder")
        if self.multiplier:
            _positive(self, "multiplier")


def published_inputs(encoder: EncoderSettings, points: PointSettings | None = None) -> EmbedderSettings:
    """The published embedders with other networks: colour and mask, each of the crop and of the picture, and points."""
    names: list[tuple[EncoderSettings | PointSettings, str, str]] = [(encoder, "image", "rgb_image")]
    names.append((encoder, "mask", "rgb_image_mask"))
    if points is not None:
        names.append((points, "pointmap", "rgb_pointmap"))
    return EmbedderSettings(tuple((part, ((crop, "cropped"), (full, "full"))) for part, crop, full in names))


PUBLISHED_SS: Final = published_inputs(EncoderSettings(), PointSettings())
PUBLISHED_SLAT: Final = published_inputs(EncoderSettings(prenorm=True))


class ImageEncoder(nn.Module):
    """Pictures or masks to tokens."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = VisionTransformer(settings.vit)
        self.embed_dim = settings.vit.channels

    @property
    def shared_encoder(self) -> nn.Module:
        """The network that encoders may have in common: its passes can be used again by all of them."""
        return self.backbone

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of a picture.

        Args:
            image: [B, 3 or 1, H, W] in 0..1.

        Returns:
            [B, tokens, C] in the picture's dtype: class token, registers (with `prenorm` only), patches row by row.
        """
        settings = self.settings
        x = image
        if x.shape[-2:] != (settings.size, settings.size):
            x = F.interpolate(x, (settings.size, settings.size), mode="bilinear")
        x = x.expand(-1, 3, -1, -1)
        if settings.normalize:
            mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
            x = (x - mean) / std
        tokens = self.backbone(x)
        if settings.prenorm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        else:
            tokens = self.backbone.norm(tokens)
            tokens = torch.cat([tokens[:, :1], tokens[:, 1 + settings.vit.registers :]], dim=1)
        return tokens.to(image.dtype)


class GatedMlp(nn.Module):
    """Shazeer, "GLU Variants Improve Transformer": SwiGLU; its width is a multiple of 256."""

    def __init__(self, channels: int, out_channels: int, multiplier: float) -> None:
        super().__init__()
        hidden = -(-(2 * int(multiplier * out_channels) // 3) // 256) * 256
        self.w1 = nn.Linear(channels, hidden, bias=False)
        self.w2 = nn.Linear(hidden, out_channels, bias=False)
        self.w3 = nn.Linear(channels, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class ConditionFuser(nn.Module):
    """The tokens of all inputs of a sampler, one after the other."""

    half_parts = ("",)

    def __init__(self, settings: EmbedderSettings) -> None:
        super().__init__()
        self.settings = settings
        modules = [
            PointPatchEmbed(part) if isinstance(part, PointSettings) else ImageEncoder(part)
            for part, _ in settings.parts
        ]
        names = [list(inputs) for _, inputs in settings.parts]
        self.embedder_list = list(zip(modules, names, strict=True))
        """Pairs of an encoder and the names of its inputs, as the stock embedder has them."""
        self.module_list = nn.ModuleList(modules)
        self.embed_dims = width = max(module.embed_dim for module in modules)
        groups = dict.fromkeys(group for inputs in names for _, group in inputs if group is not None)
        self.groups = {group: number for number, group in enumerate(groups)}
        self.idx_emb = nn.Parameter(torch.randn(1 + len(groups), width) / width**0.5)
        if settings.multiplier:
            self.projection_nets = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(m.embed_dim), GatedMlp(m.embed_dim, width, settings.multiplier))
                for m in modules
            )

    def forward(self, **inputs: Tensor) -> Tensor:
        """Context of a sampler.

        Args:
            inputs: by name; more than the settings name are ignored. Pictures [B, 3, H, W], masks [B, 1, H, W], maps
                of points [B, 3, H, W].

        Returns:
            [B, tokens, width].

        Raises:
            FastSam3dError: an input is missing.
        """
        found = []
        for number, (module, names) in enumerate(self.embedder_list):
            for name, group in names:
                if name not in inputs:
                    raise FastSam3dError(f"the condition embedder needs the input {name!r}: give one")
                tokens = module(inputs[name])
                if self.settings.multiplier:
                    tokens = self.projection_nets[number](tokens)
                if group is not None:
                    # The sum is rounded once, to the type that the projection has under autocast.
                    tokens = (tokens + self.idx_emb[self.groups[group]]).to(tokens.dtype)
                found.append(tokens * 0.0 if name in self.settings.drop else tokens)
        return torch.cat(found, dim=1)

    def image_encoders(self) -> list[ImageEncoder]:
        """The encoders of pictures and masks, in their order."""
        return [module for module in self.module_list if isinstance(module, ImageEncoder)]


def share_equal(encoders: Sequence[ImageEncoder], weights: Sequence[Mapping[str, Tensor]] | None = None) -> int:
    """Give encoders whose networks are equal, tensor by tensor and bit by bit, one network.

    Works before the networks have weights, if their files' are given: only one copy has to be loaded then. A
    comparison holds two tensors at a time, of a mapping that reads them when they are asked for.

    Args:
        encoders: of one or more embedders.
        weights: of the network of each encoder, by parameter name; None: the encoders' own.

    Returns:
        the number of different networks.
    """
    if weights is None:
        weights = [encoder.backbone.state_dict() for encoder in encoders]
    different: list[tuple[ImageEncoder, Mapping[str, Tensor]]] = []
    for encoder, own in zip(encoders, weights, strict=True):
        for other, known in different:
            alike = encoder.settings.vit == other.settings.vit
            if encoder.backbone is other.backbone or (alike and _equal(own, known)):
                encoder.backbone = other.backbone
                break
        else:
            different.append((encoder, own))
    return len(different)


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(_same_bits(a[name], b[name]) for name in a)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or a.is_meta:
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(*(x.detach().reshape(-1).view(torch.uint8) for x in (a, b)))
