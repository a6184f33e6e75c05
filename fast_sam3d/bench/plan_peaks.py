"""Peak memory of the native runtime's stages under a memory plan, by an allocation trace: at full size without a GPU.

On the meta device nothing is computed, and half precision is that of a GPU; on a CPU everything is, with random
weights that are loaded and released as the plan says. The surface, which cannot be extracted without data, is always
that of a shell's field.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from fast_sam3d.adapters import sam3d_of
from fast_sam3d.bench.gpu.networks import FULL, OnShell, Scale, put_on_shell, stage_calls
from fast_sam3d.bench.operations import shell
from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.native.allocations import Allocations, traced
from fast_sam3d.native.networks import bare_pipeline
from fast_sam3d.native.plans import STAGES, Plan, expected_peaks
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.synthetic import synthetic_parts
from fast_sam3d.native.weights import WeightsPart

__all__ = ["AUTOCAST", "RADIUS_20K", "RADIUS_40K", "plan_peaks", "random_parts", "surface_peak", "voxels_of"]

AUTOCAST: Final = ("condition", "ss", "ss_decoder", "slat")
"""Stages that run under autocast in half precision."""
RADIUS_20K, RADIUS_40K = (29.6,), (29.6, 24.6, 16.0)
"""Radii of nested shells with about 20,000 and 40,000 voxels."""


def voxels_of(radii: Collection[float], resolution: int) -> Tensor:
    """[N, 4] int32: the voxels of nested shells, each once."""
    return torch.unique(torch.cat([shell(radius, resolution) for radius in radii]), dim=0)


def plan_peaks(
    plan: Plan,
    radii: Collection[float],
    device: torch.device,
    half: torch.dtype | None,
    scale: Scale = FULL,
    stages: Collection[str] = tuple(STAGES),
    steps: int = 1,
    parts: Mapping[str, WeightsPart] | None = None,
) -> dict[str, Any]:
    """Run every stage once under a plan and trace what is allocated.

    Args:
        radii: of the object's shells, in voxels.
        device: meta or a CPU.
        half: type of half precision; None: float32.
        stages: of `plans.STAGES`, and "surface" for that of the mesh alone; the depth model is not measured here.
        steps: of the samplers, each without guidance; more need no more memory.
        parts: of an earlier call with the same scale, which take a while to create; None: new ones.

    Returns:
        JSON-ready: voxels; by stage the peak in bytes, that which the plan expects, the bytes of weights on the device,
        and seconds.
    """
    parts = parts or random_parts(scale)
    coords = voxels_of(radii, scale.resolution)
    adapter = _adapted(parts, half, steps)
    given = (stage_calls(scale, None, device, False), stage_calls(scale, coords, device, False))
    calls = given[0] | given[1]
    ss = scale.settings.ss_decoder
    latent = torch.zeros(1, ss.latent_channels, *[scale.settings.ss_flow.resolution] * 3, device=device)
    calls["ss_decoder"] = lambda adapter: adapter.structure_decoder()(latent)
    residency = Residency(parts, plan, device, half, copies=False)
    decoder: Any = adapter.mesh_decoder()
    if device.type == "meta":  # voxels need values
        calls["mesh"] = lambda adapter: decoder.decode_cells(_latent(coords, scale))
        for name in ("gaussian", "gaussian_4"):
            calls[name] = partial(_decode, name, coords, scale)
    else:
        decoder.mesh_extractor = OnShell(SurfaceExtractor(decoder.mesh_extractor.res), min(radii), scale.resolution)
    expected = expected_peaks(plan, len(coords), half, residency.sizes())
    found: dict[str, Any] = {}
    with torch.no_grad():
        for stage in STAGES:
            if stage in stages and stage in calls:
                begin = time.perf_counter()
                cast = half if stage in AUTOCAST else None
                trace = _on_meta if device.type == "meta" else _with_data
                peak, weights = trace(residency, stage, partial(calls[stage], adapter), cast)
                found[stage] = {"peak_bytes": peak, "expected_bytes": expected[stage], "weights_bytes": weights,
                                "seconds": round(time.perf_counter() - begin, 1)}  # fmt: skip
    for part in parts.values():
        part.release()
    return {"plan": plan.name, "device": device.type, "half": str(half), "voxels": len(coords), "stages": found}


def surface_peak(radii: Collection[float], scale: Scale = FULL) -> int:
    """Peak bytes of the extraction of a mesh with data on the CPU, its cells' features included."""
    grid = SparseGrid(voxels_of(radii, scale.resolution)).subdivided().subdivided()
    extractor = SurfaceExtractor(scale.resolution * 4)
    feats = torch.randn(len(grid), extractor.feats_channels, generator=torch.Generator().manual_seed(0))
    put_on_shell(feats, grid.coords[:, 1:], min(radii), scale.resolution)
    with torch.no_grad(), traced(watch=[feats, grid.coords]) as found:
        extractor(SparseTensor(feats, grid))
    return found.peak


def _adapted(parts: Mapping[str, WeightsPart], half: torch.dtype | None, steps: int) -> Any:
    adapter = sam3d_of(bare_pipeline({name: part.module for name, part in parts.items()}, half or torch.float32))
    for stage in adapter.stages:
        adapter.generator(stage).inference_steps = steps
        adapter.guidance(stage).strength = 0.0
    return adapter


def _decode(name: str, coords: Tensor, scale: Scale, adapter: Any) -> Any:
    return adapter.decoder(name)(_latent(coords, scale))


def _latent(coords: Tensor, scale: Scale) -> SparseTensor:
    return SparseTensor(torch.empty(len(coords), scale.settings.slat_flow.latent_channels, device="meta"), coords)


def _on_meta(residency: Residency, stage: str, call: Any, half: torch.dtype | None) -> tuple[int, int]:
    """Peak and weights of one stage, with weights that have a type and a shape, and those that stay."""
    names = [name for name in residency.parts if name in residency.plan.resident or name in STAGES[stage]]
    weights: list[Tensor] = []
    for name in names:
        part: Any = residency.parts[name]
        kind = residency.plan.half(name, residency.half)
        for slot in part._slots():
            if slot.value.dtype is not part.dtype(slot.name, kind):
                slot.put(slot.value.to(part.dtype(slot.name, kind)))
        weights += [slot.value for slot in part._slots()]
    with traced(half, watch=weights) as found:
        held = found.live
        call()
    return found.peak, held


def _with_data(residency: Residency, stage: str, call: Any, half: torch.dtype | None) -> tuple[int, int]:
    """Peak and weights of one stage, whose weights are loaded first, and others released, within the trace."""
    with _loaded(residency) as found, residency.using(*STAGES[stage], stage=stage):
        held = found.live
        with torch.autocast("cpu", half) if half is not None else nullcontext():
            call()
    return found.peak, held


@contextmanager
def _loaded(residency: Residency) -> Iterator[Allocations]:
    """A trace that knows the weights that are there already."""
    found: Allocations
    with traced(meta=False) as found:
        for part in residency.parts.values():  # referenced by nothing else, so that they can be released
            found.watch(tensor for tensor in part.module.parameters() if not tensor.is_meta)
        yield found


def random_parts(scale: Scale = FULL) -> dict[str, WeightsPart]:
    """The parts of a pipeline with random weights, but for the depth model; see `native.synthetic`."""
    parts, _ = synthetic_parts(scale.settings, **scale.synthetic)
    del parts["depth_model"]
    return parts
