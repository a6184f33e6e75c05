"""The native embedders against the stock ones, whose image encoder is DINOv2's own code with random weights.

Skipped where `dinov2` cannot be imported: put a clone of facebookresearch/dinov2 on the PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.native.embedder import ConditionFuser, EmbedderSettings, EncoderSettings, ImageEncoder
from fast_sam3d.native.points import PointPatchEmbed, PointSettings
from fast_sam3d.native.vit import VisionTransformer, ViTConfig
from tests.stock.stand_ins import importable

pytestmark = pytest.mark.skipif(importlib.util.find_spec("dinov2") is None, reason="dinov2 is not importable")

CHANNELS, HEADS, PIXELS = 64, 4, 112
NAMES = ("image", "rgb_image"), ("mask", "rgb_image_mask"), ("pointmap", "rgb_pointmap")
INPUTS = tuple(((crop, "cropped"), (full, "full")) for crop, full in NAMES)
POINTS = PointSettings(channels=32, size=64, patch=8)


class TimmBlock(nn.Module):
    """Replaces timm's block, with its names."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, norm_layer: Any) -> None:
        super().__init__()
        self.heads = num_heads
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=qkv_bias), "proj": nn.Linear(dim, dim)})
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attn["proj"](mixed.transpose(1, 2).reshape(x.shape))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def hub(repo_or_dir: str, model: str, source: str, verbose: bool, **sizes: Any) -> Any:
    """Replaces torch.hub.load: DINOv2's own constructor without a download; `sizes` replace those of ViT-L."""
    from dinov2.hub import backbones
    from dinov2.models import vision_transformer

    assert (repo_or_dir, source) == ("facebookresearch/dinov2", "github")
    kind = vision_transformer.DinoVisionTransformer
    with mock.patch.object(vision_transformer, "DinoVisionTransformer", lambda **own: kind(**{**own, **sizes})):
        return getattr(backbones, model)(pretrained=False)


@contextmanager
def stock_parts() -> Iterator[Any]:
    """The stock classes, whose image encoder needs no download."""
    with importable(), warnings.catch_warnings(), mock.patch("torch.hub.load", hub):
        warnings.simplefilter("ignore")
        from sam3d_objects.model.backbone.dit.embedder import dino, embedder_fuser, pointmap

        with mock.patch.object(pointmap, "Block", TimmBlock):
            yield SimpleNamespace(**{**vars(dino), **vars(embedder_fuser), **vars(pointmap)})


def enliven(module: nn.Module, seed: int = 1) -> nn.Module:
    """Random values in every parameter, so that no branch is dead."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        own = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
        parameter.data = torch.randn_like(parameter) * own + (parameter.data if parameter.ndim < 2 else 0)
    return module.eval().requires_grad_(False)


def both(prenorm: bool) -> tuple[nn.Module, ConditionFuser]:
    """The stock and the native embedder of a sampler, with equal weights."""
    sizes = {"embed_dim": CHANNELS, "depth": 3, "num_heads": HEADS, "mlp_ratio": 4}
    vit = ViTConfig(CHANNELS, 3, HEADS)
    with stock_parts() as stock:
        options = {"dino_model": "dinov2_vitl14_reg", "backbone_kwargs": sizes, "prenorm_features": prenorm}
        parts: list[Any] = [[stock.Dino(PIXELS, **options), names] for names in INPUTS[:2]]
        own: list[Any] = [(EncoderSettings(vit, PIXELS, prenorm=prenorm), names) for names in INPUTS[:2]]
        if not prenorm:
            parts.append([stock.PointPatchEmbed(POINTS.size, POINTS.patch, POINTS.channels, "linear"), INPUTS[2]])
            own.append((POINTS, INPUTS[2]))
        theirs = enliven(stock.EmbedderFuser(parts))
    ours = ConditionFuser(EmbedderSettings(tuple(own))).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@contextmanager
def switched_off(fuser: ConditionFuser) -> Iterator[None]:
    """All windows of points at once, with all of their queries, as in the stock class."""
    points = [module for module in fuser.modules() if isinstance(module, PointPatchEmbed)]
    for module in points:
        module.class_token_only, module.chunk = False, 10_000
    yield
    for module in points:
        module.class_token_only, module.chunk = True, 256


@pytest.fixture(scope="module", params=[False, True], ids=["ss", "slat"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, ConditionFuser]:
    return both(request.param)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(3)
    found = {name: torch.rand(1, 3, PIXELS, PIXELS) for name in NAMES[0]}
    found |= {name: (torch.rand(1, 1, PIXELS, PIXELS) > 0.4).float() for name in NAMES[1]}
    found |= {name: torch.randn(1, 3, PIXELS, PIXELS) for name in NAMES[2]}
    found["pointmap"][..., :9] = 0
    found["pointmap"][..., 20:60, 30:40] = torch.nan
    found["rgb_pointmap"][:, 2, 60:] = torch.inf
    return found


def off(a: Tensor, b: Tensor) -> float:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return float((a.float() - b.float()).abs().max())


def test_context_equals_the_stock_one(pair: tuple[nn.Module, ConditionFuser], inputs: dict[str, Tensor]) -> None:
    theirs, ours = pair
    want = theirs(**inputs)
    assert float(want.abs().max()) > 1
    assert off(ours(**inputs), want) < 4e-6
    with switched_off(ours):
        assert off(ours(**inputs), want) == 0


def test_dropped_modalities_equal_the_stock_ones(inputs: dict[str, Tensor]) -> None:
    theirs, ours = both(prenorm=False)
    theirs.force_drop_modalities = ["pointmap", "mask"]
    dropped = EmbedderSettings(ours.settings.parts, drop=("pointmap", "mask"))
    again = ConditionFuser(dropped).eval().requires_grad_(False)
    again.load_state_dict(ours.state_dict())
    assert off(again(**inputs), theirs(**inputs)) < 2e-6


@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=["float32", "half"])
def test_half_is_no_worse_than_stock_half(
    pair: tuple[nn.Module, ConditionFuser], inputs: dict[str, Tensor], stored: torch.dtype
) -> None:
    """Under float16 autocast; weights of linear layers and convolutions stored in half change nothing."""
    theirs, ours = pair
    exact = theirs(**inputs)
    changed = ConditionFuser(ours.settings).eval().requires_grad_(False)
    changed.load_state_dict(ours.state_dict())
    for module in changed.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(stored)
    with torch.autocast("cpu", torch.float16):
        stock, own, half = theirs(**inputs), ours(**inputs), changed(**inputs)
    assert own.dtype == stock.dtype == torch.float16
    assert off(own, half) == 0
    assert 0 < off(own.float(), exact) < 1.5 * off(stock.float(), exact)


def test_full_width_at_518_pixels() -> None:
    """ViT-L's width, heads and table of positions, with three blocks."""
    with stock_parts() as stock:
        sizes = {"embed_dim": 1024, "depth": 3, "num_heads": 16, "mlp_ratio": 4}
        theirs = enliven(stock.Dino(518, dino_model="dinov2_vitl14_reg", backbone_kwargs=sizes, prenorm_features=True))
    ours = ImageEncoder(EncoderSettings(ViTConfig(blocks=3), prenorm=True)).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 518, 518)
    assert off(ours(image), theirs(image)) < 2e-6


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_named_networks_equal_the_hubs(name: str) -> None:
    """Parameters, and features of blocks of an oblong picture, which the depth network needs."""
    with stock_parts():
        theirs: Any = enliven(torch.hub.load("facebookresearch/dinov2", name, source="github", verbose=False))
    ours = VisionTransformer(ViTConfig.named(name)).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 70, 98)
    for blocks in (2, (1, 11)):
        for got, want in zip(ours.features(image, blocks), theirs.get_intermediate_layers(image, blocks), strict=True):
            assert off(got, want) < 2e-5
