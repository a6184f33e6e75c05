"""The stages that are measured: networks with seeded random weights, and what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.operations import RADII, shell
from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.config import PUBLISHED_SS_CONTEXT, SSFlowConfig
from fast_sam3d.model.half import store_in_half
from fast_sam3d.model.published import FILES
from fast_sam3d.model.slat_config import CELLS_PER_AXIS, PUBLISHED_SLAT_CONTEXT, SLatFlowConfig
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.native.embedder import EncoderSettings, published_inputs
from fast_sam3d.native.gaussian_decoder import GaussianDecoderConfig
from fast_sam3d.native.mesh_decoder import MeshDecoderConfig
from fast_sam3d.native.moge import MoGeConfig
from fast_sam3d.native.networks import EMBEDDERS, bare_pipeline, build_networks, share_one_encoder
from fast_sam3d.native.points import PointSettings
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.structure_decoder import StructureDecoderConfig
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.vit import ViTConfig

PRECISIONS: Final[Mapping[str, torch.dtype]] = {"published": torch.float16, "bfloat16": torch.bfloat16}
"""The half type of each. The published pipeline.yaml has dtype float16: autocast of both samplers, SS weights in
float32, SLaT and decoder weights in half (sam3d_objects/pipeline/inference_pipeline.py, `sample_sparse_structure`)."""

SAMPLERS: Final = ("ss", "slat")

STRUCTURE: Final = ("condition", "ss")
"""The stages that do not: both embedders on one picture, and the sampler of the sparse structure."""

OBJECT: Final = ("slat", "mesh", "gaussian")
"""The stages that depend on the number of voxels."""


@dataclass(frozen=True, eq=False)
class Scale:
    """What is measured.

    Args:
        settings: sizes of the networks, and of their samplers.
        contexts: (tokens, channels) of the samplers' contexts.
        radii: of the shells, in voxels; the most important first.
        steps: of both samplers.
        fewer: steps (SS, SLaT) with about as many network calls as the default preset.
        backend: of torch.compile.
        compile_seconds: a compilation that takes longer is skipped; half of it is expected.
        gigabytes: free memory that the sparse structure and, per shell, an object need, 10^9 bytes.
        synthetic: arguments of `native.synthetic.synthetic_parts`, for whole runs.
    """

    settings: NativeSettings
    contexts: tuple[tuple[int, int], tuple[int, int]]
    radii: tuple[float, ...]
    steps: int
    fewer: tuple[int, int]
    backend: str
    compile_seconds: float
    gigabytes: tuple[float, tuple[float, ...]]
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resolution(self) -> int:
        """Voxels along each axis."""
        return self.settings.slat_flow.resolution


FULL: Final = Scale(
    NativeSettings(), (PUBLISHED_SS_CONTEXT, PUBLISHED_SLAT_CONTEXT), (RADII[1], RADII[2], RADII[0]), 25, (10, 3),
    "inductor", 120.0, (10.5, (6.0, 9.0, 4.0)),
)  # fmt: skip
"""Of the published configuration."""

_TRUNK: Final[dict[str, Any]] = {
    "resolution": 16, "model_channels": 256, "num_blocks": 1, "num_heads": 4, "mlp_ratio": 1.0
}  # fmt: skip
_FLOW: Final[dict[str, Any]] = {
    "num_blocks": 1, "num_heads": 1, "cond_channels": 32, "share_mod": False, "convention": "published"
}  # fmt: skip
_SMALL_DEPTH: Final = MoGeConfig(
    ViTConfig(32, 2, 1, 2.0, registers=0, by_scale=True), intermediate_layers=2, dim_proj=16, dim_upsample=(32, 32),
    num_res_blocks=1, num_tokens_range=(20, 40),
)  # fmt: skip
_SMALL_VIT: Final = ViTConfig(32, 1, 1, 2.0, grid=2)
SMALL: Final = Scale(
    NativeSettings(
        SSFlowConfig(96, resolution=4, patch_size=1, **_FLOW),
        SLatFlowConfig(16, model_channels=32, io_channels=16, **_FLOW),
        published_inputs(EncoderSettings(_SMALL_VIT, 28), PointSettings(16, 16)),
        published_inputs(EncoderSettings(_SMALL_VIT, 28, prenorm=True)),
        StructureDecoderConfig(channels=(16, 8, 8), num_res_blocks=1, num_res_blocks_middle=1),
        MeshDecoderConfig(**_TRUNK),
        GaussianDecoderConfig(**_TRUNK, num_gaussians=4),
        GaussianDecoderConfig(**_TRUNK, num_gaussians=2),
    ),
    ((24, 32), (20, 32)), (1.9, 1.5), 4, (2, 2), "eager", 10.0, (0.1, (0.1, 0.1)),
    {"radius": 0.2, "depth": _SMALL_DEPTH},
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
    real = STRUCTURE if radius is None else OBJECT
    half = half_type(precision, device, stock)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if stock:
            from fast_sam3d.bench.gpu.stock import stock_networks

            pipeline = stock_networks(scale.settings, real, device, half)
        else:
            pipeline = native_networks(scale.settings, real, device, half)
        adapter = adapt(pipeline)
        networks = {stage: network for stage in real if (network := _network(adapter, stage)) is not None}
        for stage, network in networks.items():
            randomise(network)
            if not stock and stage in OBJECT:
                store_in_half(network, half)
        coords = None if radius is None else shell(radius, scale.resolution)
        given = stage_calls(scale, coords, device, stock)
    if radius is not None and stock:
        calm(adapter.mesh_decoder(), radius, scale.resolution)
    elif radius is not None:
        extractor = SurfaceExtractor(scale.resolution * CELLS_PER_AXIS)
        adapter.mesh_decoder().mesh_extractor = OnShell(extractor, radius, scale.resolution)
    stages = {
        stage: partial(run_stage, given[stage], adapter, device, half, stage not in ("mesh", "gaussian"))
        for stage in networks
    }
    parameters = {stage: sum(map(Tensor.numel, [*n.parameters(), *n.buffers()])) for stage, n in networks.items()}
    tokens = 0 if coords is None else len(SparseGrid(coords).downsampled()[0])
    return Bed(pipeline, stages, parameters, 0 if coords is None else len(coords), tokens)


def native_networks(
    settings: NativeSettings, real: Collection[str], device: torch.device, dtype: torch.dtype
) -> SimpleNamespace:
    """A pipeline of untrained networks, whose embedders share one image encoder; it has no `run`.

    Args:
        real: stages whose networks are created on the device. The others are on the meta device.
        dtype: in which the samplers and embedders run under autocast; the weights are float32.
    """
    names = [name for stage in real for name in (EMBEDDERS if stage == "condition" else (FILES[stage],))]
    networks = build_networks(settings, names, device)
    share_one_encoder(networks)
    return bare_pipeline(networks, dtype)


def half_type(precision: str, device: torch.device, stock: bool) -> torch.dtype:
    """The half type of a precision on a device. A CPU has no fast float16: there bfloat16, and float32 for stock."""
    if device.type == "cpu":
        return torch.float32 if stock else torch.bfloat16
    return PRECISIONS[precision]


def _network(adapter: Any, stage: str) -> nn.Module | None:
    """None: the pipeline has none, as the stock one without DINOv2's code."""
    if stage == "condition":
        return nn.ModuleDict(adapter.embedders) if adapter.embedders else None
    network: nn.Module = adapter.network(stage) if stage in SAMPLERS else adapter.decoder(stage)
    return network


def randomise(network: nn.Module) -> None:
    """Normal weights that keep magnitudes, in place of zeros too: a branch behind a zero gate would be dead."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:  # [out, in], spconv's [out, k, k, k, in], or [27, in, out]
                outputs = parameter.shape[-1 if parameter.dim() == 3 else 0]
                parameter.normal_(std=0.5 / math.sqrt(max(parameter.numel() // outputs, 1)))


def stage_calls(
    scale: Scale, coords: Tensor | None, device: torch.device, stock: bool
) -> dict[str, Callable[[Any], Any]]:
    """Stage to a call of its networks on random inputs."""
    settings = scale.settings
    if coords is None:
        shapes = {name: (1, *shape) for name, shape in settings.ss_flow.leaf_shapes.items()}
        context = torch.randn(1, *scale.contexts[0], device=device)
        return {
            "condition": lambda adapter: _condition(adapter.embedders, settings, device),
            "ss": lambda adapter: adapter.generator("ss")(shapes, device, context),
        }
    context = torch.randn(1, *scale.contexts[1], device=device)
    feats = torch.randn(len(coords), settings.slat_flow.latent_channels, device=device)
    shape, places, voxels = (1, *feats.shape), coords.numpy(), coords.to(device)

    def latent() -> Any:
        if not stock:
            return SparseTensor(feats, voxels)
        from sam3d_objects.model.backbone.tdfy_dit.modules import sparse

        return sparse.SparseTensor(feats=feats, coords=voxels)

    return {
        "slat": lambda adapter: adapter.generator("slat")(shape, device, context, places),
        "mesh": lambda adapter: adapter.decoder("mesh")(latent()),
        "gaussian": lambda adapter: adapter.decoder("gaussian")(latent()),
        "gaussian_4": lambda adapter: adapter.decoder("gaussian_4")(latent()),
    }


def _condition(embedders: Mapping[str, nn.Module], settings: NativeSettings, device: torch.device) -> dict[str, Tensor]:
    """The contexts of both samplers. Each call has another picture: else `exact.images` would have nothing to do."""
    names = [name for _, inputs in settings.ss_embedder.parts for name, _ in inputs]
    size = max(part.size for part, _ in settings.slat_embedder.parts)
    given = {name: torch.rand(1, 1 if "mask" in name else 3, size, size, device=device) for name in names}
    return {name: embedder(**given) for name, embedder in embedders.items()}


def run_stage(call: Callable[[Any], Any], adapter: Any, device: torch.device, half: torch.dtype, autocast: bool) -> Any:
    """One stage. The decoders run without autocast, as in the stock pipeline."""
    cast = autocast and half is not torch.float32
    with torch.no_grad(), torch.autocast(device.type, half) if cast else nullcontext():
        return call(adapter)


def distances(places: Tensor, radius: float, resolution: int) -> Tensor:
    """Distance [...] in voxels of places [..., 3] in cells from a shell's outer surface, negative inside."""
    return (places / CELLS_PER_AXIS - resolution / 2).norm(dim=-1) - radius


def put_on_shell(feats: Tensor, cells: Tensor, radius: float, resolution: int) -> Tensor:
    """Make the mesh decoder's features [N, 101] those of a shell, in place: random weights cut every cell."""
    corners = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)], device=cells.device)
    feats.mul_(0.3)
    feats[:, :8] = distances((cells[:, None] + corners).float(), radius, resolution) / CELLS_PER_AXIS
    return feats


class OnShell:
    """This project's mesh extractor on the field of a shell."""

    def __init__(self, extractor: Any, radius: float, resolution: int) -> None:
        self.extractor, self.radius, self.resolution = extractor, radius, resolution
        self.built_in_savings = extractor.built_in_savings

    def __call__(self, cells: SparseTensor, training: bool = False) -> Any:
        put_on_shell(cells.feats, cells.coords[:, 1:], self.radius, self.resolution)
        return self.extractor(cells, training)


def calm(decoder: Any, radius: float, resolution: int) -> None:
    """Make the stock decoder's field that of a shell."""

    def overwrite(layer: nn.Module, inputs: Any, output: Any) -> Any:
        return output.replace(put_on_shell(output.feats, output.coords[:, 1:], radius, resolution))

    decoder.out_layer.register_forward_hook(overwrite)
