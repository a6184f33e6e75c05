"""The sampling networks and samplers against the stock ones, with equal random weights, in float32 and in half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fast_sam3d.model.config import SSFlowConfig
from fast_sam3d.model.config_file import SamplingConfig
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.native.generators import (
    latent_generator,
    structure_generator,
)
from tests.minis import enliven
from tests.stock import build
from tests.stock.stand_ins import half_on_cpu, importable

WIDTH, CONTEXT = 64, 24
SS = SSFlowConfig(WIDTH, 3, 4, 4.0, WIDTH, 16, 8, 1, convention="published")
SLAT = SLatFlowConfig(64, 8, WIDTH, 3, 4, 4.0, WIDTH, io_channels=16, share_mod=False, convention="published")
SIZES = {"model_channels": WIDTH, "cond_channels": WIDTH, "num_blocks": 3, "num_heads": 4, "mlp_ratio": 4}
SEEDS = (0, 1)


def stock_generator(stage: str, seed: int, half: bool = False) -> nn.Module:
    from hydra.utils import instantiate

    settings = build.ss_generator() if stage == "ss" else build.slat_generator(half)
    backbone = settings["reverse_fn"]["backbone"]
    backbone.update(SIZES)
    for latent in backbone.get("latent_mapping", {}).values():
        latent["model_channels"] = latent["pos_embedder"]["model_channels"] = WIDTH
    if stage == "slat":
        backbone["io_block_channels"] = [16]
    with importable(), torch.random.fork_rng(devices=[]):
        from loguru import logger

        logger.disable("sam3d_objects")
        torch.manual_seed(seed)
        generator = instantiate(settings).eval().requires_grad_(False)
        enliven([generator])
    return generator


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stock names and layouts as this project's."""
    prefix = "reverse_fn.backbone."
    return {
        name.removeprefix(prefix).replace(".conv.", "."): w.flatten(1, 3).permute(1, 2, 0) if w.dim() == 5 else w
        for name, w in state.items()
    }


def native_generator(stage: str, stock: nn.Module, sampling: SamplingConfig | None = None) -> Any:
    """The native sampler with the weights of a stock one, loaded strictly."""
    sampling = sampling or SamplingConfig()
    with torch.device("meta"):
        native: Any = structure_generator(SS, sampling) if stage == "ss" else latent_generator(SLAT, sampling)
    weights = {name: value.float() for name, value in translated(stock.state_dict()).items()}
    native.guidance.backbone.load_state_dict(weights, assign=True, strict=True)
    return native.eval().requires_grad_(False)


@contextmanager
def running() -> Iterator[None]:
    with half_on_cpu(), torch.no_grad():
        yield


def leaves(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(1, *shape, generator=generator) for name, shape in SS.leaf_shapes.items()}


def context(seed: int) -> Tensor:
    return torch.randn(1, CONTEXT, WIDTH, generator=torch.Generator().manual_seed(100 + seed))


def voxels(seed: int, count: int = 300, edge: int = 9, corner: int = 50) -> Tensor:
    """[N, 4] int32 in stock order, with packed voxels of one to eight children."""
    chosen = torch.randperm(edge**3, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    places = torch.stack([chosen // edge**2, chosen // edge % edge, chosen % edge], dim=1) + corner
    return torch.cat([torch.zeros(count, 1, dtype=torch.int64), places], dim=1).int()


def largest(a: Any, b: Any) -> float:
    if isinstance(a, Mapping):
        return max(largest(a[name], b[name]) for name in a)
    return float((a.float() - b.float()).abs().max())


@pytest.mark.parametrize("seed", SEEDS)
def test_structure_network_equals_the_stock_one(seed: int) -> None:
    stock = stock_generator("ss", seed)
    native = native_generator("ss", stock)
    x, cond, t = leaves(seed), context(seed), torch.tensor([417.0])
    with running():
        for d, flags in ((0.0, {}), (40.0, {}), (0.0, {"cfg": True}), (40.0, {"cfg": True})):
            step = torch.tensor([d])
            expected = stock.reverse_fn.backbone(x, t, cond, d=step, **flags)
            assert largest(expected, {name: torch.zeros(1) for name in expected}) > 1
            for constant in (False, True):
                native.guidance.backbone.constant_unconditional = constant
                found = native.guidance.backbone(x, t, cond, d=step, **flags)
                assert set(found) == set(expected)
                assert largest(found, expected) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_latent_network_equals_the_stock_one(seed: int) -> None:
    stock = stock_generator("slat", seed)
    native = native_generator("slat", stock)
    coords, cond, t = voxels(seed), context(seed), torch.tensor(417.0)
    x = torch.randn(1, len(coords), 8, generator=torch.Generator().manual_seed(seed))
    with running():
        for flags in ({}, {"cfg": True}):
            expected = stock.reverse_fn.backbone(x, t, cond, coords.numpy(), **flags)
            assert expected.abs().max() > 1
            for constant in (False, True):
                native.guidance.backbone.constant_unconditional = constant
                assert largest(native.guidance.backbone(x, t, cond, coords.numpy(), **flags), expected) < 1e-5
