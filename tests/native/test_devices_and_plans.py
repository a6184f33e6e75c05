"""Memory plans, methods and savings of the native pipeline on a device in software, as CUDA and as MPS.

`tests.devices` records what they would refuse.
"""

from __future__ import annotations

import pytest
import torch

import fast_sam3d
from fast_sam3d.config.compose import compose
from fast_sam3d.exact import passes
from fast_sam3d.geometry.sparse_grid import CHILDREN, SparseGrid
from fast_sam3d.model import layers
from fast_sam3d.native import vit
from fast_sam3d.native.children import convolve_children, kernels_of
from tests.devices import DEVICE, Accelerator, OnDevice
from tests.minis import rgba
from tests.native.held import Weights, pipeline_on, random_weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


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
