"""Precision of whole runs: the embedded pipeline in half precision, with every preset and saving.

Methods alone, at the published sizes: tests/sampling/test_precision.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.exact import Exact
from fast_sam3d.report import observe
from fast_sam3d.telemetry import SolveRecord
from tests.beds import EMBEDDED, differing
from tests.contract import ROUNDED
from tests.minis import random_mini

HALF = (torch.float16, torch.bfloat16)
PRESETS = [name for name in group_options()["preset"] if name != "off"]


@functools.cache
def run(preset: str, dtype: torch.dtype, around: bool = False) -> tuple[dict[str, Tensor], tuple[SolveRecord, ...]]:
    """A result and the records of its solves; in half precision by the pipeline, or by autocast `around` the run."""
    pipeline = random_mini()
    if not around:
        pipeline.dtype = pipeline.shape_model_dtype = dtype
    context: AbstractContextManager[Any] = torch.autocast("cpu", dtype) if around else nullcontext()
    overrides = ["mesh.min_voxels=0"] if compose([f"preset={preset}"])[0]["mesh"] else []
    with context, fast_sam3d.accelerated(pipeline, preset=preset, overrides=overrides) as handle:
        return EMBEDDED.run(pipeline), tuple(handle.report.solves)


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """Free the results."""
    yield
    run.cache_clear()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_in_half_precision(preset: str, dtype: torch.dtype) -> None:
    plain, _ = run("off", dtype)
    result, solves = run(preset, dtype)
    assert {name: value.dtype for name, value in result.items()} == {n: v.dtype for n, v in plain.items()}
    assert all(torch.isfinite(value).all() for name, value in result.items() if not name.startswith("pointmap"))
    assert [solve.finite for solve in solves] == [True, True]
    _, exact = run(preset, torch.float32)
    assert [(s.evaluated, s.calls, s.fallbacks) for s in solves] == [(s.evaluated, s.calls, s.fallbacks) for s in exact]


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_around_a_run_is_the_pipelines_own(dtype: torch.dtype) -> None:
    """The embedders run in it as well, so results differ; neither decisions nor types do."""
    (own, solves), (result, others) = run("default", dtype), run("default", dtype, around=True)
    assert {name: value.dtype for name, value in result.items()} == {n: v.dtype for n, v in own.items()}
    assert all(torch.isfinite(value).all() for name, value in result.items() if not name.startswith("pointmap"))
    assert [s.evaluated for s in solves] == [s.evaluated for s in others]


@pytest.mark.parametrize("preset", ["off", "default"])
def test_an_infinite_structure_is_not_called_an_empty_picture(preset: str, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    network = pipeline.models["ss_generator"].reverse_fn.backbone
    network.register_forward_hook(lambda module, args, leaves: {name: v * torch.inf for name, v in leaves.items()})
    refused = pytest.raises(FastSam3dError, match="logits of the sparse structure are not finite: run in float32")
    with observe(pipeline), fast_sam3d.accelerated(pipeline, preset=preset), refused:
        EMBEDDED.run(pipeline)
    assert "ss: the sampled latents are not finite" in caplog.text


@pytest.mark.parametrize("dtype", HALF)
def test_exact_savings_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    pipeline = random_mini()
    pipeline.dtype = pipeline.shape_model_dtype = dtype
    plain, _ = run("off", dtype)
    savings = {name: name not in ROUNDED for name in Exact().settings()}
    with fast_sam3d.accelerated(pipeline, {"exact": savings}):
        assert differing(EMBEDDED.run(pipeline), plain) == set()
    for saving in ROUNDED:
        with fast_sam3d.accelerated(pipeline, {"exact": {**dict.fromkeys(savings, False), saving: True}}):
            result = EMBEDDED.run(pipeline)
        assert result["shape"].dtype == plain["shape"].dtype
        off = (result["shape"] - plain["shape"]).abs().max() / plain["shape"].abs().max()
        assert float(off) < 10 * torch.finfo(dtype).eps
