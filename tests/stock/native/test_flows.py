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
from fast_sam3d.model.half import store_in_half
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.native.generators import latent_generator, structure_generator
from fast_sam3d.native.names import module_tensor
from tests.minis import enliven
from tests.stock import build
from tests.stock.stand_ins import half_on_cpu, importable

WIDTH, CONTEXT, EDGE = 64, 24, 7
SS = SSFlowConfig(WIDTH, 3, 4, 4.0, WIDTH, EDGE, 8, 1, convention="published")
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
    else:
        backbone["latent_mapping"]["shape"]["pos_embedder"]["resolution"] = EDGE
    with importable(), torch.random.fork_rng(devices=[]):
        from loguru import logger

        logger.disable("sam3d_objects")
        torch.manual_seed(seed)
        generator = instantiate(settings).eval().requires_grad_(False)
        enliven([generator])
    return generator


def native_generator(stage: str, stock: nn.Module, sampling: SamplingConfig | None = None) -> Any:
    """The native sampler with the weights of a stock one, loaded strictly."""
    sampling = sampling or SamplingConfig()
    with torch.device("meta"):
        native: Any = structure_generator(SS, sampling) if stage == "ss" else latent_generator(SLAT, sampling)
    prefix = "reverse_fn.backbone."
    weights = dict(module_tensor(name.removeprefix(prefix), w.float()) for name, w in stock.state_dict().items())
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


def error(a: Any, b: Any) -> float:
    """Root of the mean square of all differences."""
    pairs = [(a[name], b[name]) for name in a] if isinstance(a, Mapping) else [(a, b)]
    return float(torch.cat([(x.float() - y.float()).flatten() for x, y in pairs]).square().mean().sqrt())


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


@pytest.mark.parametrize("seed", SEEDS)
def test_structure_latents_equal_the_stock_ones_after_a_guided_solve(seed: int) -> None:
    """25 steps, guidance 7 in the first half, noise from the same seed; then distilled."""
    sampling, cond = SamplingConfig(), context(seed)
    stock = stock_generator("ss", seed)
    native = native_generator("ss", stock, sampling)
    shapes = {name: (1, *shape) for name, shape in SS.leaf_shapes.items()}
    stock.rescale_t, stock.reverse_fn.interval = sampling.rescale_t, sampling.cfg_interval
    for distilled, steps in ((False, 25), (True, 4)):
        stock.inference_steps = native.inference_steps = steps
        for generator in (stock, native):
            generator.no_shortcut, generator.reverse_fn.strength = not distilled, 0 if distilled else 7
        assert list(stock._prepare_t_and_d()[0]) == native._prepare_t()
        with running():
            torch.manual_seed(seed)
            expected = stock(shapes, torch.device("cpu"), cond)
            torch.manual_seed(seed)
            found = native(shapes, "cpu", cond)
        assert largest(found, expected) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_structured_latents_equal_the_stock_ones_after_a_guided_solve(seed: int) -> None:
    """25 uniform steps, guidance 1."""
    sampling, cond, coords = SamplingConfig(25, 1.0, rescale_t=1.0), context(seed), voxels(seed)
    stock = stock_generator("slat", seed)
    native = native_generator("slat", stock, sampling)
    stock.inference_steps, stock.rescale_t = 25, 1
    stock.reverse_fn.strength, stock.reverse_fn.interval = 1, [0, 500]
    assert stock._prepare_t().tolist() == native._prepare_t()
    with running():
        torch.manual_seed(seed)
        expected = stock((1, len(coords), 8), torch.device("cpu"), cond, coords.numpy())
        torch.manual_seed(seed)
        found = native((1, len(coords), 8), "cpu", cond, coords.numpy())
    assert largest(found, expected) < 1e-5


def test_voxels_that_share_a_parent_are_packed_as_stock_does() -> None:
    """Parents with one to eight children."""
    stock, cond = stock_generator("slat", 0), context(0)
    network = native_generator("slat", stock).guidance.backbone
    cells = torch.cartesian_prod(*[torch.arange(2)] * 3)
    places = torch.cat([cells[:count] + torch.tensor([2 * count, 4, 6]) for count in range(1, 9)])
    coords = torch.cat([torch.zeros(len(places), 1, dtype=torch.int64), places], dim=1).int()
    x = torch.randn(1, len(coords), 8, generator=torch.Generator().manual_seed(0))
    with running():
        expected = stock.reverse_fn.backbone(x, torch.tensor(800.0), cond, coords.numpy())
        assert largest(network(x, torch.tensor(800.0), cond, coords.numpy()), expected) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_structure_network_in_half_is_as_close_to_float32_as_stock(seed: int) -> None:
    stock, cond = stock_generator("ss", seed), context(seed)
    native = native_generator("ss", stock)
    store_in_half(native.guidance.backbone, torch.float16)
    x, call = leaves(seed), {"d": torch.zeros(1)}
    t = torch.tensor([417.0])
    with running():
        exact = stock.reverse_fn.backbone(x, t, cond, **call)
        with torch.autocast("cuda", torch.float16):  # the bed's, on the CPU
            theirs = stock.reverse_fn.backbone(x, t, cond, **call)
            ours = native.guidance.backbone(x, t, cond, **call)
    assert {value.dtype for value in theirs.values()} == {torch.float16}
    assert 0 < error(ours, exact) <= 1.1 * error(theirs, exact)


@pytest.mark.parametrize("seed", SEEDS)
def test_latent_network_in_half_is_as_close_to_float32_as_stock(seed: int) -> None:
    exactly, cond, coords = stock_generator("slat", seed), context(seed), voxels(seed)
    stock = stock_generator("slat", seed, half=True)
    stock.load_state_dict(exactly.state_dict())
    network = native_generator("slat", exactly).guidance.backbone
    store_in_half(network, torch.float16)
    given = {**network.state_dict()}
    for name, value in stock.reverse_fn.backbone.state_dict().items():
        mine, expected = module_tensor(name, value)
        assert given.pop(mine).dtype is expected.dtype, mine
    assert not given
    x = torch.randn(1, len(coords), 8, generator=torch.Generator().manual_seed(seed))
    t = torch.tensor(417.0)
    with running():
        exact = exactly.reverse_fn.backbone(x, t, cond, coords.numpy())
        with torch.autocast("cuda", torch.float16):
            theirs = stock.reverse_fn.backbone(x, t, cond, coords.numpy())
            ours = network(x, t, cond, coords.numpy())
        alone = network(x, t, cond, coords.numpy())
    for found in (ours, alone):
        assert 0 < error(found, exact) <= 1.1 * error(theirs, exact)
