"""The stages that are measured: networks with seeded random weights, and what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.operations import RADII, shell
from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.config import SSFlowConfig
from fast_sam3d.model.extract import MeshExtractor, MeshResult
from fast_sam3d.model.half import store_in_half
from fast_sam3d.model.published import Sizes, published
from fast_sam3d.model.slat_config import CELLS_PER_AXIS, GaussianDecoderConfig, MeshDecoderConfig, SLatFlowConfig
from fast_sam3d.model.sparse import SparseTensor

PRECISIONS: Final[Mapping[str, torch.dtype]] = {"published": torch.float16, "bfloat16": torch.bfloat16}
"""The half type of each. The published pipeline.yaml has dtype float16: autocast of both samplers, SS weights in
float32, SLaT and decoder weights in half (sam3d_objects/pipeline/inference_pipeline.py, `sample_sparse_structure`)."""

OBJECT: Final = ("slat", "mesh", "gaussian")
"""The stages that depend on the number of voxels."""


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Args:
        sizes: of the networks.
        radii: of the shells, in voxels; the most important first.
        steps: of both samplers.
        fewer: steps (SS, SLaT) with about as many network calls as the default preset.
        backend: of torch.compile.
        compile_seconds: a compilation that takes longer is skipped; half of it is expected.
        gigabytes: free memory that the sparse structure and, per shell, an object need, 10^9 bytes.
    """

    sizes: Sizes
    radii: tuple[float, ...]
    steps: int
    fewer: tuple[int, int]
    backend: str
    compile_seconds: float
    gigabytes: tuple[float, tuple[float, ...]]


_SMALL_TRUNK: Final[dict[str, Any]] = {
    "resolution": 16,
    "model_channels": 256,
    "num_blocks": 1,
    "num_heads": 4,
    "mlp_ratio": 1.0,
}

FULL: Final = Scale(Sizes(), (RADII[1], RADII[2], RADII[0]), 25, (9, 5), "inductor", 120.0, (9.0, (6.0, 9.0, 4.0)))
"""Of the published configuration."""
SMALL: Final = Scale(
    Sizes(
        SSFlowConfig(32, num_blocks=1, num_heads=1, cond_channels=32, resolution=4, patch_size=1),
        SLatFlowConfig(16, model_channels=32, num_blocks=1, num_heads=1, cond_channels=32, io_channels=16,
                       share_mod=False),
        MeshDecoderConfig(**_SMALL_TRUNK, upsample_channels=(64, 32), out_channels=101),
        GaussianDecoderConfig(**_SMALL_TRUNK, num_gaussians=4),
        (24, 32),
        (20, 32),
    ),
    (1.9, 1.5),
    4,
    (2, 2),
    "eager",
    10.0,
    (0.1, (0.1, 0.1)),
)  # fmt: skip
"""A few seconds on a CPU."""


@dataclass(frozen=True)
class Bed:
    """Networks of one cell.

    Args:
        pipeline: as `fast_sam3d.accelerate` takes it.
        stages: name to a call that runs the stage once.
        parameters: of each stage's network, buffers included.
        voxels, tokens: of the object, and of its packed grid; 0 for the sparse structure.
    """

    pipeline: Any
    stages: Mapping[str, Callable[[], Any]]
    parameters: Mapping[str, int]
    voxels: int
    tokens: int


def build(
    scale: Scale, radius: float | None, device: torch.device, precision: str, seed: int = 0, stock: bool = False
) -> Bed:
    """Networks with random weights on a device.

    Args:
        radius: of the object's shell; None for the sparse structure.
        stock: the classes of the installed sam3d_objects, instead of this project's.
    """
    real = ("ss",) if radius is None else OBJECT
    half = half_type(precision, device, stock)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if stock:
            from fast_sam3d.bench.gpu.stock import stock_networks

            pipeline = stock_networks(scale.sizes, real, device, half)
        else:
            pipeline = published(scale.sizes, real, device, half)
        adapter = adapt(pipeline)
        networks = {stage: _network(adapter, stage) for stage in real}
        for stage, network in networks.items():
            randomise(network)
            if not stock and stage == "slat":
                store_in_half(network, half)
            elif not stock and stage != "ss":
                network.to(half)
        coords = None if radius is None else shell(radius, scale.sizes.slat.resolution)
        given = _given(scale.sizes, coords, device, half, stock)
    if stock and coords is not None:
        calm(adapter.mesh_decoder(), radius or 0.0, scale.sizes.slat.resolution)
    elif coords is not None:
        adapter.mesh_decoder().mesh_extractor = NoSurface()
    stages = {
        stage: partial(_run, call, adapter, device, half, stage in adapter.stages and half is not torch.float32)
        for stage, call in given.items()
    }
    parameters = {stage: sum(map(Tensor.numel, [*n.parameters(), *n.buffers()])) for stage, n in networks.items()}
    tokens = 0 if coords is None else len(SparseGrid(coords).downsampled()[0])
    return Bed(pipeline, stages, parameters, 0 if coords is None else len(coords), tokens)


def half_type(precision: str, device: torch.device, stock: bool) -> torch.dtype:
    """The half type of a precision on a device. A CPU has no fast float16: there bfloat16, and float32 for stock."""
    if device.type == "cpu":
        return torch.float32 if stock else torch.bfloat16
    return PRECISIONS[precision]


def _network(adapter: Any, stage: str) -> nn.Module:
    network: nn.Module = adapter.network(stage) if stage in ("ss", "slat") else adapter.decoder(stage)
    return network


def randomise(network: nn.Module) -> None:
    """Normal weights that keep magnitudes, in place of zeros too: a branch behind a zero gate would be dead."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:  # [out, in], spconv's [out, k, k, k, in], or [27, in, out]
                outputs = parameter.shape[-1 if parameter.dim() == 3 else 0]
                parameter.normal_(std=0.5 / math.sqrt(max(parameter.numel() // outputs, 1)))


def _given(
    sizes: Sizes, coords: Tensor | None, device: torch.device, half: torch.dtype, stock: bool
) -> dict[str, Callable[[Any], Any]]:
    """Stage to a call of its network on random inputs."""
    if coords is None:
        shapes = {name: (1, *shape) for name, shape in sizes.ss.leaf_shapes.items()}
        context = torch.randn(1, *sizes.ss_context, device=device)
        return {"ss": lambda adapter: adapter.generator("ss")(shapes, device, context)}
    context = torch.randn(1, *sizes.slat_context, device=device)
    feats = torch.randn(len(coords), sizes.slat.latent_channels, device=device)
    shape, places, voxels = (1, *feats.shape), coords.numpy(), coords.to(device)

    def latent() -> Any:
        if not stock:
            return SparseTensor(feats.to(half), voxels)
        from sam3d_objects.model.backbone.tdfy_dit.modules import sparse

        return sparse.SparseTensor(feats=feats, coords=voxels)

    return {
        "slat": lambda adapter: adapter.generator("slat")(shape, device, context, places),
        "mesh": lambda adapter: adapter.decoder("mesh")(latent()),
        "gaussian": lambda adapter: adapter.decoder("gaussian")(latent()),
    }


def _run(call: Callable[[Any], Any], adapter: Any, device: torch.device, half: torch.dtype, is_sampler: bool) -> Any:
    """One stage. The decoders run without autocast, as in the stock pipeline."""
    with torch.no_grad(), torch.autocast(device.type, half) if is_sampler else nullcontext():
        return call(adapter)


class NoSurface:
    """In place of the mesh extractor, which works on the processor: the mesh stage is the network alone."""

    built_in_savings = ("extraction",)

    def __call__(self, fields: SparseTensor) -> MeshResult:
        none = torch.zeros(0, 3, device=fields.device)
        return MeshResult(none, none.long(), none, False)


def surface(scale: Scale, radius: float) -> Callable[[], MeshResult]:
    """A call of this project's extractor, which works on the processor, on the field of a shell's outer surface."""
    extractor = MeshExtractor(scale.sizes.slat.resolution * CELLS_PER_AXIS)
    grid = SparseGrid(shell(radius, scale.sizes.slat.resolution)).subdivided().subdivided()
    feats = torch.rand(len(grid), 4, generator=torch.Generator().manual_seed(0))
    feats[:, 0] = distances(grid.coords[:, 1:] + 0.5, radius, scale.sizes.slat.resolution)
    return lambda: extractor(SparseTensor(feats, grid))


def distances(places: Tensor, radius: float, resolution: int) -> Tensor:
    """Distance [...] in voxels of places [..., 3] in cells from a shell's outer surface, negative inside."""
    return (places / CELLS_PER_AXIS - resolution / 2).norm(dim=-1) - radius


def calm(decoder: Any, radius: float, resolution: int) -> None:
    """Make the stock decoder's field that of the shell: random weights give a surface in every cell."""
    corners = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)])

    def overwrite(layer: nn.Module, inputs: Any, output: Any) -> Any:
        feats, cells = 0.3 * output.feats, output.coords[:, 1:]
        places = cells[:, None] + corners.to(cells.device)
        feats[:, :8] = distances(places.float(), radius, resolution) / CELLS_PER_AXIS
        return output.replace(feats)

    decoder.out_layer.register_forward_hook(overwrite)
