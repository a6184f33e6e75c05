"""Peak memory of every stage under the memory plans of the native runtime, whose weights are loaded and released."""

from __future__ import annotations

import time
from typing import Any, Final

import torch

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.exact_parts import synchronise
from fast_sam3d.bench.gpu.networks import OnShell, Scale, run_stage, stage_calls
from fast_sam3d.bench.operations import shell
from fast_sam3d.native.networks import bare_pipeline
from fast_sam3d.native.plans import STAGES, Plan
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.synthetic import synthetic_parts
from fast_sam3d.run.memory import free_memory

OBJECTS: Final = 2
"""The first loads what stays; the last is measured."""
STEPS: Final = 2
"""Of the samplers, of which more need no more memory."""


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
    parts, dtype = synthetic_parts(scale.settings, seed), half or torch.float32
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
