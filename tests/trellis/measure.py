"""Time of TRELLIS's own samplers at the published sizes with random weights, on a GPU.

    PYTHONPATH=.:<a clone of microsoft/TRELLIS with its submodules> python -m tests.trellis.measure [--output FILE]

Sparse structure and structured latent, float16 torsos, the published sampler; variants alternate within a round. Of the
packages that TRELLIS needs none must be installed: attention is torch's own, and sparse convolutions are the stand-in
of these tests where spconv is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import fast_sam3d
from fast_sam3d.bench.operations import shell
from fast_sam3d.report import observe
from tests.trellis.stand_ins import home, importable

SIZES: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "model_channels": 1024, "cond_channels": 1024, "num_blocks": 24,
    "num_heads": 16, "mlp_ratio": 4, "qk_rms_norm": True, "use_fp16": True, "edge": 16,
}  # fmt: skip
SMALL = {"model_channels": 64, "num_blocks": 1, "use_fp16": False, "edge": 4}
"""On a CPU, where this only tries the command."""
SAMPLER: dict[str, Any] = {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
RADII = {9_968: 20.65, 20_216: 29.6}
VARIANTS: dict[str, Any] = {
    "off": None, "exact": {"exact": {"unconditional": True}}, "default": "default", "fast": "fast",
    "fast_trellis": "fast_trellis",
}  # fmt: skip


def pipeline(device: torch.device) -> Any:
    """Flow networks at the published sizes; nothing is decoded."""
    from trellis import models
    from trellis.pipelines.samplers import FlowEulerGuidanceIntervalSampler
    from trellis.pipelines.trellis_image_to_3d import TrellisImageTo3DPipeline

    sizes = SIZES | (SMALL if device.type == "cpu" else {})
    found = TrellisImageTo3DPipeline()
    torch.manual_seed(0)
    networks = {
        "sparse_structure_flow_model": models.SparseStructureFlowModel(
            resolution=sizes.pop("edge"), patch_size=1, **sizes
        ),
        "slat_flow_model": models.SLatFlowModel(
            resolution=64, patch_size=2, num_io_res_blocks=2, io_block_channels=[128], **sizes
        ),
    }
    for network in networks.values():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
        network.to(device).eval().requires_grad_(False)
    found.models, found._device = networks, device
    found.slat_normalization = {"mean": [0.0] * 8, "std": [1.0] * 8}
    for name in ("sparse_structure_sampler", "slat_sampler"):
        setattr(found, name, FlowEulerGuidanceIntervalSampler(sigma_min=1e-5))
        setattr(found, f"{name}_params", dict(SAMPLER))
    return found


def seconds(call: Any, device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda", help="cpu: small networks, to try the command")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if home() is None:
        print("trellis, with its submodule FlexiCubes, is not importable: see the head of this file", file=sys.stderr)
        return 2
    device = torch.device(args.device)
    with ExitStack() as stack:
        stack.enter_context(importable())
        stack.enter_context(device)
        stack.enter_context(mock.patch("tqdm.std.tqdm.display"))
        stack.enter_context(torch.no_grad())
        found = measure(pipeline(device), device, args.rounds)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    facts = {"card": card, "torch": torch.__version__, "rounds": args.rounds, "rows": found}
    for row in found:
        print(json.dumps(row), flush=True)
    if args.output:
        args.output.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


def measure(pipeline: Any, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Median seconds of each stage and variant, and network calls."""
    context = torch.randn(1, 1374, 1024)
    cond = {"cond": context, "neg_cond": torch.zeros_like(context)}
    flow = pipeline.models["sparse_structure_flow_model"]
    noise = torch.randn(1, 8, *[flow.resolution] * 3)
    voxels = {count: shell(radius, 64).to(device) for count, radius in RADII.items()}
    if device.type == "cpu":
        voxels = {123: next(iter(voxels.values()))[:123]}
    sampler = pipeline.sparse_structure_sampler
    stages: dict[str, Any] = {
        "ss": lambda: sampler.sample(flow, noise, **cond, **pipeline.sparse_structure_sampler_params),
        **{f"slat {n}": lambda coords=coords: pipeline.sample_slat(cond, coords) for n, coords in voxels.items()},
    }
    times: dict[tuple[str, str], list[float]] = {}
    calls: dict[tuple[str, str], int] = {}
    for number in range(rounds + 1):  # the first warms up
        for stage, call in stages.items():
            for name in list(VARIANTS) if number % 2 else reversed(VARIANTS):
                config = VARIANTS[name]
                mesh = ["mesh=off"] if isinstance(config, str) else []
                block = fast_sam3d.accelerated(pipeline, config, overrides=mesh) if config else observe(pipeline)
                with block as handle:
                    took = seconds(call, device)
                report = getattr(handle, "report", handle)
                calls[stage, name] = sum(step.network_calls for step in report.solves[-1].steps)
                if number:
                    times.setdefault((stage, name), []).append(took)
    return [
        {"stage": stage, "variant": name, "calls": calls[stage, name], "seconds": some,
         "median": statistics.median(some), "speedup": statistics.median(
             plain / own for plain, own in zip(times[stage, "off"], some, strict=True))}
        for (stage, name), some in times.items()
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
