"""What the published preprocessing and point embedder call of torchvision and timm, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


def resize(image: Tensor, size: Any, interpolation: Any = InterpolationMode.BILINEAR, antialias: bool = True) -> Tensor:
    """[C, H, W] -> [C, *size]; of one number: the shorter side."""
    if interpolation in (0, 2):  # torchvision's numbers
        interpolation = InterpolationMode.NEAREST if interpolation == 0 else InterpolationMode.BILINEAR
    height, width = image.shape[-2:]
    if isinstance(size, int):
        short = min(height, width)
        size = (size * height // short, size * width // short)
    if (height, width) == tuple(size):
        return image
    if interpolation is InterpolationMode.NEAREST:
        return F.interpolate(image[None], tuple(size), mode="nearest")[0]
    return F.interpolate(image[None], tuple(size), mode="bilinear", align_corners=False, antialias=antialias)[0]


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """[C, H, W] -> [C, height, width], zero outside of the picture."""
    rows, columns = image.shape[-2:]
    bottom, right = top + height, left + width
    part = image[..., max(top, 0) : bottom, max(left, 0) : right]
    sides = [max(-left, 0), max(right - columns, 0), max(-top, 0), max(bottom - rows, 0)]
    return F.pad(part, sides, value=0.0)


class Resize:
    def __init__(self, size: int, interpolation: Any = InterpolationMode.BILINEAR) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: Tensor) -> Tensor:
        return resize(image, self.size, self.interpolation)


class Compose:
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm block of a vision transformer, with timm's names and without layer scale."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1, self.attn = norm_layer(dim), _Attention(dim, num_heads, qkv_bias)
        self.norm2, self.mlp = norm_layer(dim), _Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


WRITTEN: dict[str, dict[str, Any]] = {
    "timm.models.vision_transformer": {"Block": Block},
    "torchvision.transforms": {"Compose": Compose, "InterpolationMode": InterpolationMode, "Resize": Resize},
    "torchvision.transforms.functional": {"crop": crop, "resize": resize},
}
