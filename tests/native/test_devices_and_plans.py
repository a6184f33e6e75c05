"""Memory plans, methods and savings of the native pipeline on a device in software, as CUDA and as MPS.

`tests.devices` records what they would refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.config.compose import compose
from fast_sam3d.exact import passes
from fast_sam3d.geometry.sparse_grid import CHILDREN, SparseGrid
from fast_sam3d.model import layers
from fast_sam3d.native import vit
from fast_sam3d.native.children import convolve_children, kernels_of
from fast_sam3d.native.depth import DepthModel
from fast_sam3d.native.moge import MoGe
from fast_sam3d.native.networks import build_networks, make_parts
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.native.plans import PLANS
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.weights import WeightsPart, half_names
from tests.devices import DEVICE, Accelerator, OnDevice
from tests.minis import aim_at_few_voxels, rgba
from tests.native.small_moge import TINY, see_a_scene
from tests.native.tiny import SETTINGS, random_parts

VOXELS = 30
Weights = dict[str, dict[str, Tensor]]


class Held:
    """A source of weights in main memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @contextmanager
    def opened(self) -> Iterator[dict[str, Tensor]]:
        yield self.tensors

    def refuse(self, name: str, fault: str) -> Exception:
        return AssertionError(f"{name}: {fault}")


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Of a pipeline that finds about `VOXELS` voxels, and of a small MoGe."""
    found = random_parts()
    torch.manual_seed(0)
    depth = MoGe(TINY).eval().requires_grad_(False)
    see_a_scene(depth, 0.5)
    aim_at_few_voxels(NativePipeline(SETTINGS, found, depth_model=DepthModel(depth)), VOXELS)
    modules = {**{name: part.module for name, part in found.items()}, "depth_model": depth}
    return {name: dict(module.state_dict()) for name, module in modules.items()}


def parts_of(weights: Weights) -> dict[str, WeightsPart]:
    """As from a checkpoint folder."""
    networks = build_networks(SETTINGS)
    parts = make_parts(networks, {name: {None: Held(weights[name])} for name in networks}, SETTINGS)
    with torch.device("meta"):
        depth = MoGe(TINY)
    together = next(iter(parts.values())).together
    halves = half_names(depth, default=True)
    parts["depth_model"] = WeightsPart("depth_model", depth, {None: Held(weights["depth_model"])}, halves, together)
    return parts


def pipeline_on(device: torch.device, weights: Weights, half: Any, plan: str) -> NativePipeline:
    parts = parts_of(weights)
    residency = Residency(parts, PLANS[plan], device, half)
    return NativePipeline(SETTINGS, parts, device, half, residency, DepthModel(parts["depth_model"].module))


MPS = ("no kernel for MPS:", "float64:")
"""Faults on MPS alone, and those on CUDA alone."""
CUDA = ("no kernel for CUDA:",)
CASES = {
    "cuda": (MPS, "8GB", torch.bfloat16, []),
    "mps": (CUDA, "8GB", torch.bfloat16, ["preset=default", "exact=all"]),
    "cuda, carving": (MPS, "12GB", torch.bfloat16, ["preset=fast_sam3d"]),
    "mps, float32": (CUDA, "all", None, []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_native_pipeline_runs_on_another_device(
    name: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, plan, half, overrides = CASES[name]
    monkeypatch.setattr(passes, "PLAIN", (*passes.PLAIN, OnDevice))
    if "mps" in name:
        for module, devices in ((layers, "SPLIT_DEVICES"), (vit, "RESIZE_ON_HOST")):
            monkeypatch.setattr(module, devices, (DEVICE.type,))
        monkeypatch.setattr(layers, "SCORE_BYTES", 1 << 16)
    tree = compose(overrides)[0]
    methods = {stage: tree[stage] for stage in ("ss", "slat", "exact")}
    if tree["mesh"]:
        methods["mesh"] = {**tree["mesh"], "min_voxels": 0}
    accelerator = Accelerator()
    with accelerator.on():
        pipeline = pipeline_on(DEVICE, weights, half, plan)
        with fast_sam3d.accelerated(pipeline, methods) as handle:
            result = pipeline.run(
                rgba(), seed=0, decode_formats=["mesh", "gaussian"], stage1_inference_steps=6, stage2_inference_steps=6
            )
        assert pipeline.residency is not None
        pipeline.residency.release()
        assert pipeline.residency.loaded == ()
    assert [line for line in accelerator.faults if not line.startswith(others)] == []
    assert accelerator.silent == []
    assert {result[name].device for name in ("shape", "coords", "rotation", "scale")} == {DEVICE}
    assert all(solve.complete and not solve.fallbacks for solve in handle.report.solves)
    assert not half or not pipeline.models["slat_decoder_mesh"].redecoded


def test_the_last_convolutions_wait_for_nothing() -> None:
    """Every chunk of the mesh decoder runs them."""
    accelerator = Accelerator()
    for copies in (False, True):
        feats = torch.randn(8 if copies else 64, 2)
        kernels = kernels_of(torch.randn(27, 2, 3), copies)
        table = SparseGrid(torch.cat([torch.zeros(8, 1), torch.tensor(CHILDREN)], 1).int()).neighbours()
        want = convolve_children(feats, table, kernels, 0, copies)
        with accelerator.on():
            there = [x.to(DEVICE) for x in (feats, table, *kernels)]
            accelerator.syncs.clear()
            got = convolve_children(there[0], there[1], tuple(there[2:]), 0, copies)
            assert (accelerator.syncs, accelerator.faults) == ([], [])
            torch.testing.assert_close(got.cpu(), want)
