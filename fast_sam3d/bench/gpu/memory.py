"""Peak memory of every stage under the memory plans of the native runtime, whose weights are loaded and released."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.exact_parts import synchronise
from fast_sam3d.bench.gpu.networks import OnShell, Scale, run_stage, stage_calls
from fast_sam3d.bench.operations import shell
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.networks import build_networks, image_encoders, make_parts
from fast_sam3d.native.parts import Part
from fast_sam3d.native.plans import STAGES, Plan
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.run.memory import free_memory

OBJECTS: Final = 2
"""The first loads what stays; the last is measured."""
STEPS: Final = 2
"""Of the samplers, of which more need no more memory."""


class Drawn(Mapping[str, Tensor]):
    """Random weights of a network by name: ones and zeros of norms and biases, else parts of one random tensor."""

    def __init__(self, network: nn.Module, pool: Tensor) -> None:
        self.like, self.pool = network.state_dict(), pool

    def __getitem__(self, name: str) -> Tensor:
        shape = self.like[name].shape
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith(("weight", "gamma"))))
        outputs = shape[-1 if len(shape) == 3 else 0]
        return (self.pool[: shape.numel()] * (0.5 * math.sqrt(outputs / shape.numel()))).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)

    @contextmanager
    def opened(self) -> Iterator[Mapping[str, Tensor]]:
        """See `native.weights.Source`."""
        yield self

    def refuse(self, name: str, fault: str) -> CheckpointError:
        """See `native.weights.Source`."""
        return CheckpointError(f"random weights {fault.format(name)}")


def random_parts(scale: Scale, seed: int) -> Mapping[str, Part]:
    """The parts of a pipeline without weights, whose embedders share one image encoder."""
    networks = build_networks(scale.settings)
    encoders = [found for network in networks.values() for _, found in image_encoders(network)]
    for encoder in encoders:
        encoder.backbone = encoders[0].backbone
    largest = max(tensor.numel() for network in networks.values() for tensor in network.state_dict().values())
    pool = torch.randn(largest, generator=torch.Generator().manual_seed(seed))
    return make_parts(
        networks, {name: {None: Drawn(network, pool)} for name, network in networks.items()}, scale.settings
    )


def follow(
    plan: Plan, scale: Scale, radius: float, device: torch.device, half: torch.dtype | None, seed: int = 0
) -> dict[str, Any]:
    """Run every stage for one object after another under a plan.

    Args:
        radius: of the objects' shells.
        half: type of half precision; None: float32.

    Returns:
        JSON-ready, of the last object: the plan, bytes by stage, those that the plan expects, and seconds of loading.
    """
    parts = random_parts(scale, seed)
    modules = {name: part.module for name, part in parts.items()}
    embedders = {name: module for name, module in modules.items() if name.endswith("embedder")}
    models = nn.ModuleDict({name: module for name, module in modules.items() if name not in embedders})
    dtype = half or torch.float32
    adapter = adapt(SimpleNamespace(models=models, condition_embedders=embedders, dtype=dtype, shape_model_dtype=dtype))
    for stage in ("ss", "slat"):
        adapter.generator(stage).inference_steps = STEPS
    decoder: Any = models["slat_decoder_mesh"]
    decoder.mesh_extractor = OnShell(SurfaceExtractor(decoder.mesh_extractor.res), radius, scale.resolution)
    coords = shell(radius, scale.resolution)
    calls = stage_calls(scale, None, device, False) | stage_calls(scale, coords, device, False)
    ss = scale.settings.ss_decoder
    latent = torch.randn(1, ss.latent_channels, *[scale.settings.ss_flow.resolution] * 3, device=device)
    calls["ss_decoder"] = lambda adapter: adapter.structure_decoder()(latent)
    residency, loading = Residency(parts, plan, device, half), 0.0
    try:
        for _ in range(OBJECTS):
            residency.clear()
            loading = 0.0
            for stage, names in STAGES.items():
                if stage not in calls:
                    continue
                start = time.perf_counter()
                with residency.using(*names, stage=stage):
                    synchronise(device)
                    loading += time.perf_counter() - start
                    run_stage(calls[stage], adapter, device, dtype, stage in ("condition", "ss", "ss_decoder", "slat"))
        return {**residency.facts(len(coords)), "voxels": len(coords), "loading_seconds": loading}
    finally:
        for part in parts.values():
            part.release()
        free_memory()
