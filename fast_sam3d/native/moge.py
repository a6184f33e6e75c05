"""MoGe v1, the network that estimates the pointmap and the camera of a picture.

Wang et al., "MoGe: Unlocking Accurate Monocular Geometry Estimation" (2410.19115). Facts from moge/model/v1.py
(microsoft/MoGe); parameter names are those of its files. MoGe v2 has another network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import LARGEST, LARGEST_REAL, most
from fast_sam3d.native.focal import camera_matrix, recover_focal_shift, view_plane
from fast_sam3d.native.vit import MEAN, STD, VisionTransformer, ViTConfig, resizing_device

__all__ = ["PUBLISHED_DEPTH", "MoGe", "MoGeConfig"]

PUBLISHED_DEPTH: Final = "Ruicheng/moge-vitl"
"""On the hub; the published pipeline.yaml names it."""

MOST_PATCHES: Final = 10_000
MOST_DOUBLINGS: Final = 6
MOST_LAYERS: Final = 64

# Of the constructor, where a file does not say.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "encoder": "dinov2_vitb14", "intermediate_layers": 4, "dim_proj": 512, "dim_upsample": [256, 128, 128],
    "dim_times_res_block_hidden": 1, "num_res_blocks": 1, "remap_output": "linear", "res_block_norm": "group_norm",
    "num_tokens_range": [1200, 2500], "last_res_blocks": 0, "last_conv_channels": 32, "last_conv_size": 1,
    "mask_threshold": 0.5,
}  # fmt: skip
# Of earlier versions: with one value implemented, or without effect.
_RETIRED: Final[Mapping[str, Any]] = {"output_mask": True, "split_head": True, "trained_diagonal_size_range": None}
_REMAPS: Final = ("linear", "sinh", "exp", "sinh_exp")
_NORMS: Final = ("group_norm", "layer_norm")


def _remap(points: Tensor, how: str) -> Tensor:
    """Coordinates [..., 3] of what the head gives, in place."""
    plane, z = points[..., :2], points[..., 2:]
    if how in ("exp", "sinh_exp"):
        z.exp_()
    elif how == "sinh":
        z.sinh_()
    if how == "exp":
        plane *= z
    elif how in ("sinh", "sinh_exp"):
        plane.sinh_()
    return points


def _precision(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to a half type, or none, whatever is set around; not every device has it."""
    if not torch.amp.autocast_mode.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


@dataclass(frozen=True)
class MoGeConfig:
    """What a file says under `model_config`; the defaults are those of Ruicheng/moge-vitl.

    Args:
        encoder: the image encoder.
        intermediate_layers: its blocks that the head reads, by number, or how many of the last ones.
        dim_proj: channels of the head's input.
        dim_upsample: channels after each doubling of the resolution.
        dim_times_res_block_hidden: hidden channels of residual blocks in units of their channels.
        num_res_blocks: after each doubling.
        remap_output: of the coordinates that the head gives: "linear", "sinh", "exp" or "sinh_exp".
        res_block_norm: "group_norm" (32 channels a group) or "layer_norm" (one group).
        num_tokens_range: patches of a picture at the lowest and the highest resolution.
        last_res_blocks, last_conv_channels, last_conv_size: of the last layers.
        mask_threshold: points with a larger mask value are kept.
    """

    encoder: ViTConfig = ViTConfig.named("dinov2_vitl14")
    intermediate_layers: int | tuple[int, ...] = 4
    dim_proj: int = 512
    dim_upsample: tuple[int, ...] = (256, 128, 64)
    dim_times_res_block_hidden: int = 2
    num_res_blocks: int = 2
    remap_output: str = "exp"
    res_block_norm: str = "group_norm"
    num_tokens_range: tuple[float, float] = (1275, 2551)
    last_res_blocks: int = 0
    last_conv_channels: int = 32
    last_conv_size: int = 1
    mask_threshold: float = 0.5

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> MoGeConfig:
        """The settings of a file.

        Args:
            given: `model_config`.
            where: the file, for error messages.

        Raises:
            CheckpointError: MoGe of another version, or the first value that is not implemented, by name.
        """
        if "neck" in given or isinstance(given.get("encoder"), Mapping):
            raise CheckpointError(f"{where} is MoGe of version 2 or later: give one of version 1, {PUBLISHED_DEPTH}")
        values = {**_DEFAULTS, **given}
        if (area := values.pop("trained_area_range", None)) is not None:
            if not isinstance(area, (list, tuple)) or not _counts(area, 1, MOST_PATCHES * 14**2):
                raise CheckpointError(f"{where} has model_config.trained_area_range = {area!r}: a pair is implemented")
            values["num_tokens_range"] = [pixels // 14**2 for pixels in area]
        for key, only in _RETIRED.items():
            if values.pop(key, only) != only and only is not None:
                raise CheckpointError(f"{where} has model_config.{key}, of which only {only} is implemented")
        if unknown := sorted(values.keys() - _DEFAULTS.keys()):
            raise CheckpointError(f"{where} has model_config.{unknown[0]}, which is not implemented")
        valid: dict[str, Callable[[Any], bool]] = {
            "encoder": lambda value: isinstance(value, str),
            "remap_output": lambda value: value in _REMAPS,
            "res_block_norm": lambda value: value in _NORMS,
            "mask_threshold": lambda value: isinstance(value, (int, float)) and abs(value) <= LARGEST_REAL,
            "num_tokens_range": lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= MOST_PATCHES,
            "intermediate_layers": lambda value: _counts(value if isinstance(value, (list, tuple)) else [value], 0),
            "dim_upsample": lambda value: _counts(value, 1) and len(value) <= MOST_DOUBLINGS,
        }
        for key, value in values.items():
            try:
                fine = valid.get(key, lambda value, key=key: _counts([value], 0, most(key)))(value)
            except TypeError:
                fine = False
            if not fine:
                raise CheckpointError(f"{where} has model_config.{key} = {value!r}, which is not implemented")
            values[key] = tuple(value) if isinstance(value, list) else value
        try:
            encoder = ViTConfig.named(values.pop("encoder"))
        except ValueError as error:
            raise CheckpointError(f"{where} has another model_config.encoder: {error}") from error
        layers = values["intermediate_layers"]
        highest = layers if isinstance(layers, int) else max(layers) + 1
        if not 0 < highest <= encoder.blocks:
            raise CheckpointError(
                f"{where} has model_config.intermediate_layers = {layers}, of {encoder.blocks} blocks"
            )
        return cls(encoder, **values)


def _counts(values: Any, least: int, largest: int = LARGEST) -> bool:
    return 0 < len(values) <= MOST_LAYERS and all(type(value) is int and least <= value <= largest for value in values)


def _conv(channels: int, out: int, size: int = 3) -> nn.Conv2d:
    """Keeps the resolution; borders are repeated."""
    return nn.Conv2d(channels, out, size, padding=size // 2, padding_mode="replicate")


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and ReLU, added to the input [B, C, H, W]."""

    def __init__(self, channels: int, config: MoGeConfig) -> None:
        super().__init__()
        hidden = config.dim_times_res_block_hidden * channels
        groups = hidden // 32 if config.res_block_norm == "group_norm" else 1
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels), nn.ReLU(inplace=True), _conv(channels, hidden),
            nn.GroupNorm(groups, hidden), nn.ReLU(inplace=True), _conv(hidden, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Head(nn.Module):
    """Maps of points and mask from patches: doubles the resolution some times, then stretches to the picture's."""

    def __init__(self, config: MoGeConfig) -> None:
        super().__init__()
        layers, dims = config.intermediate_layers, (config.dim_proj, *config.dim_upsample)
        count = layers if isinstance(layers, int) else len(layers)
        self.projects = nn.ModuleList(nn.Conv2d(config.encoder.channels, config.dim_proj, 1) for _ in range(count))
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.ConvTranspose2d(above + 2, dim, 2, 2), _conv(dim, dim)),
                *(ResidualBlock(dim, config) for _ in range(config.num_res_blocks)),
            )
            for above, dim in pairwise(dims)
        )
        last = config.last_conv_channels
        self.output_block = nn.ModuleList(
            nn.Sequential(
                _conv(dims[-1] + 2, last),
                *(ResidualBlock(last, config) for _ in range(config.last_res_blocks)),
                nn.ReLU(inplace=True),
                _conv(last, out, config.last_conv_size),
            )
            for out in (3, 1)
        )

    def forward(self, features: list[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
        """features: [B, rows * columns, C] each; grid: rows, columns; size: H, W. -> [B, 3, H, W], [B, 1, H, W]."""
        maps = [
            project(feature.transpose(1, 2).unflatten(2, grid).contiguous())
            for project, feature in zip(self.projects, features, strict=True)
        ]
        x, aspect = torch.stack(maps).sum(0), size[1] / size[0]
        for block in self.upsample_blocks:
            x = block(_with_place(x, aspect))
        x = _with_place(F.interpolate(x, size, mode="bilinear"), aspect)
        return [block(x) for block in self.output_block]


def _with_place(x: Tensor, aspect: float) -> Tensor:
    """[B, C, H, W] with the place of each pixel in the picture as two more channels."""
    place = view_plane(x.shape[-1], x.shape[-2], aspect, x.dtype, x.device)
    return torch.cat([x, place.expand(len(x), -1, -1, -1)], 1)


class MoGe(nn.Module):
    """Estimates one 3D point per pixel, in a camera frame with x to the right, y down and z forward.

    Runs in half precision on a CUDA GPU, where the published pipeline does, and where its weights are half.
    """

    half_parts = ("",)
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: MoGeConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MoGeConfig()
        self.backbone = VisionTransformer(config.encoder)
        self.head = Head(config)
        # In the file, which may differ from these.
        self.register_buffer("image_mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(STD).view(1, 3, 1, 1))

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.image_mean.device

    def forward(self, image: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Points [B, H, W, 3] up to their scale and shift along z, and mask values [B, H, W]; float32.

        Args:
            image: [B, 3, H, W] in 0..1.
            tokens: patches, about.
        """
        height, width = image.shape[-2:]
        patch = self.config.encoder.patch
        factor = (tokens * patch**2 / (height * width)) ** 0.5
        # At least a patch: of a picture of 8 x 65,535 pixels, both sides would not have one.
        size = max(int(height * factor), patch), max(int(width * factor), patch)
        grid = size[0] // patch, size[1] // patch
        place = resizing_device(self.device)
        image = F.interpolate(image.to(place, torch.float32), size, mode="bicubic", antialias=True)
        image = (image - self.image_mean.to(place)) / self.image_std.to(place)
        fitted = F.interpolate(image, (grid[0] * patch, grid[1] * patch), mode="bilinear", antialias=True)
        layers = self.config.intermediate_layers
        features = self.backbone.features(fitted.to(self.device), layers)
        maps = self.head(features, grid, size)
        with _precision(self.device, None):
            points, mask = (F.interpolate(one.float(), (height, width), mode="bilinear") for one in maps)
            return _remap(points.permute(0, 2, 3, 1), self.config.remap_output), mask[:, 0]

    @torch.no_grad()
    def infer(self, image: Tensor, resolution_level: int = 9, half: bool | None = None) -> dict[str, Tensor]:
        """Pointmap and camera of a picture.

        Args:
            image: [3, H, W] in 0..1.
            resolution_level: 0 to 9, of the picture that the network sees.
            half: compute in half precision; None: on CUDA, or where the weights are half.

        Returns:
            points [H, W, 3] and depth [H, W], infinite where mask [H, W] (bool) is off; intrinsics [3, 3], in units of
            the picture's width and height.
        """
        least, most = self.config.num_tokens_range
        tokens = int(least + resolution_level / 9 * (most - least))
        stored = next(self.backbone.patch_embed.parameters()).dtype
        if half is None:
            half = self.device.type == "cuda" or stored is not torch.float32
        kind = torch.float16 if stored is torch.float32 else stored
        with _precision(self.device, kind if half else None):
            points, values = (found[0] for found in self(image[None], tokens))
        with _precision(self.device, None):
            mask = values > self.config.mask_threshold
            focal, shift = recover_focal_shift(points, mask)
            points[..., 2] += shift
            points.masked_fill_(~mask[..., None], torch.inf)
            camera = camera_matrix(focal, *mask.shape).to(points.device)
            return {"points": points, "intrinsics": camera, "depth": points[..., 2].clone(), "mask": mask}
