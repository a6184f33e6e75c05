"""Small published sampling networks with random weights, and what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.model.config import SSFlowConfig
from fast_sam3d.model.config_file import SamplingConfig
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.native.generators import latent_generator, structure_generator
from fast_sam3d.native.names import module_tensor
from tests.native.file_layout import spconv_name

WIDTH, HEADS, BLOCKS, CONTEXT = 20, 2, 2, 7
SS = SSFlowConfig(WIDTH, BLOCKS, HEADS, 2.0, 12, 3, 8, 1, convention="published")
SLAT = SLatFlowConfig(16, 8, WIDTH, BLOCKS, HEADS, 2.0, 12, io_channels=8, share_mod=False, convention="published")
SHAPES = {name: (1, *shape) for name, shape in SS.leaf_shapes.items()}


def generator_of(stage: str, sampling: SamplingConfig | None = None) -> Any:
    build = structure_generator if stage == "ss" else latent_generator
    generator: Any = build(SS if stage == "ss" else SLAT, sampling or SamplingConfig(4, rescale_t=1.0))
    return generator.eval().requires_grad_(False)


def alive(stage: str, seed: int, scale: float = 1.0) -> tuple[Any, dict[str, Tensor]]:
    """A sampler with random weights, and these by their names and layouts in files.

    Args:
        scale: of all that is added to the residual stream; small ones make the epsilon of norms matter. Squared, of
            queries and keys before they are normalised.
    """
    generator = generator_of(stage)
    network, draw = generator.guidance.backbone, torch.Generator().manual_seed(seed)
    file: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        added = "to_out" in name or ".mlp.2" in name or "input_layer" in name or "pos_emb" in name
        spread = scale if added else 1.0
        if name == "latent_mapping.shape.pos_emb":
            file[name] = value * spread
        elif value.dim() == 3:  # [27, in, out]
            taps = (value.shape[2], 3, 3, 3, value.shape[1])
            file[spconv_name(name)] = torch.randn(taps, generator=draw) / (27 * value.shape[1]) ** 0.5
        else:
            spread *= 1 / value.shape[-1] ** 0.5 if value.dim() > 1 else 0.3
            file[spconv_name(name)] = torch.randn(value.shape, generator=draw) * spread
        if "to_qkv" in name:
            file[name][: 2 * len(value) // 3] *= scale**2
    network.load_state_dict(dict(module_tensor(name, value) for name, value in file.items()))
    return generator, file


def given(stage: str, seed: int) -> tuple[Any, Tensor, tuple[Any, ...]]:
    """State, context, and what a network is given beside them."""
    draw = torch.Generator().manual_seed(seed)
    cond = torch.randn(1, CONTEXT, 12, generator=draw)
    if stage == "ss":
        return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}, cond, ()
    cells = torch.randperm(5**3, generator=draw)[:60].sort().values
    places = torch.stack([cells // 25, cells // 5 % 5, cells % 5], dim=1) + 7
    coords = torch.cat([torch.zeros(60, 1, dtype=torch.int64), places], dim=1)
    return torch.randn(1, 60, 8, generator=draw), cond, (coords.numpy(),)


def sampled(generator: Any, cond: Tensor, rest: tuple[Any, ...], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    with torch.no_grad():
        found = generator(SHAPES if not rest else (1, 60, 8), "cpu", cond, *rest)
    return found if isinstance(found, dict) else {"feats": found}


def assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], **tolerance: float) -> None:
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}))
