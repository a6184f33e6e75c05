"""Peak memory of every stage under the memory plans of the native runtime, whose weights are loaded and released."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.exact_parts import synchronise
from fast_sam3d.bench.gpu.networks import OnShell, Scale, run_stage, stage_calls
from fast_sam3d.bench.operations import shell
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.networks import bare_pipeline, build_networks, make_parts, share_one_encoder
from fast_sam3d.native.plans import STAGES, Plan
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.weights import Tensors, WeightsPart
from fast_sam3d.run.memory import free_memory

OBJECTS: Final = 2
"""The first loads what stays; the last is measured."""
STEPS: Final = 2
"""Of the samplers, of which more need no more memory."""


class RandomWeights(Mapping[str, Tensor]):
    """Weights of a network, see `native.weights.Source`: created when they are read, equal each time.

    Norms and gains are ones, biases zeros, and everything else parts of one tensor of normal numbers, scaled so that
    magnitudes stay.

    Args:
        network: with the shapes, on the meta device.
        pool: [n] normal numbers, as many as the largest weight has.
    """

    def __init__(self, network: nn.Module, pool: Tensor) -> None:
        self._like, self._pool = network.state_dict(), pool

    def __getitem__(self, name: str) -> Tensor:
        shape = self._like[name].shape
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith(("weight", "gamma"))))
        outputs = shape[-1 if len(shape) == 3 else 0]  # [out, in], [out, in, k, k, k], or [27, in, out]
        return (self._pool[: shape.numel()] * (0.5 * math.sqrt(outputs / shape.numel()))).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        yield self

    def refuse(self, name: str, fault: str) -> CheckpointError:
        return CheckpointError(f"the random weights {fault.format(name)}")


def random_parts(settings: NativeSettings, seed: int) -> dict[str, WeightsPart]:
    """The parts of a checkpoint with random weights, whose embedders share one image encoder."""
    networks = build_networks(settings)
    share_one_encoder(networks)
    largest = max(tensor.numel() for network in networks.values() for tensor in network.state_dict().values())
    pool = torch.randn(largest, generator=torch.Generator().manual_seed(seed))
    return make_parts(networks, {name: {None: RandomWeights(n, pool)} for name, n in networks.items()}, settings)


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
    parts, dtype = random_parts(scale.settings, seed), half or torch.float32
    adapter = adapt(bare_pipeline({name: part.module for name, part in parts.items()}, dtype))
    for stage in ("ss", "slat"):
        adapter.generator(stage).inference_steps = STEPS
    decoder = adapter.mesh_decoder()
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
