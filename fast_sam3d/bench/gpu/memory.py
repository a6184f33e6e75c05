"""Time and peak memory of whole runs of the native pipeline under its memory plans, with random weights."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import torch

from fast_sam3d.bench.exact_parts import synchronise
from fast_sam3d.bench.gpu.networks import Scale
from fast_sam3d.checkpoints.native import load_synthetic
from fast_sam3d.run.memory import free_memory

OBJECTS: Final = 2
"""The first loads what stays; the last is measured."""
STEPS: Final = 2
"""Of the samplers, of which more need no more memory."""
PIXELS: Final = 512


def follow(plan: str, scale: Scale, device: torch.device, half: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """Run the whole pipeline, depth and all formats included, for one object after another under a plan.

    Args:
        plan: its name.
        half: type of half precision.

    Returns:
        JSON-ready, of the last object: the plan, bytes and loads of weights by stage, bytes that the plan expects,
        voxels, and seconds.

    Raises:
        FastSam3dError: the plan does not fit on the device.
    """
    picture = np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    mask = np.zeros((PIXELS, PIXELS), bool)
    mask[PIXELS // 4 : -PIXELS // 4, PIXELS // 4 : -PIXELS // 4] = True
    pipeline = load_synthetic(device, half, plan, scale.settings, seed=seed, **scale.synthetic)
    try:
        for _ in range(OBJECTS):
            pipeline.residency.clear()
            start = time.perf_counter()
            result = pipeline.run(
                picture, mask, seed=seed, stage1_inference_steps=STEPS, stage2_inference_steps=STEPS,
                decode_formats=["mesh", "gaussian", "gaussian_4"],
            )  # fmt: skip
            synchronise(device)
            seconds = time.perf_counter() - start
        voxels = len(result["coords"])
        return {**pipeline.residency.facts(voxels), "voxels": voxels, "seconds": seconds}
    finally:
        pipeline.residency.release()
        free_memory()
