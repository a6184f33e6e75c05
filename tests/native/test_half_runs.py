"""Whole runs of the native pipeline in half precision, also where activations are larger than it can hold."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

import fast_sam3d
from fast_sam3d.config.compose import compose
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.report import observe
from tests.beds import tensors
from tests.minis import rgba
from tests.native.held import Weights, pipeline_on, random_weights

CPU, LARGE = torch.device("cpu"), 1e5
METHODS = ["preset=default", "exact=all"]
AGAIN = "the result was not finite in half precision, and was decoded again in float32"


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


def enlarged(weights: Weights, network: str, *names: str, factor: float = LARGE) -> Weights:
    """Weights with some tensors of a network multiplied."""
    changed = {name: tensor * (factor if name in names else 1) for name, tensor in weights[network].items()}
    assert set(names) <= changed.keys()
    return {**weights, network: changed}


def run(pipeline: NativePipeline, overrides: list[str], **options: Any) -> tuple[dict[str, Any], Any]:
    """The tensors of a run and its report."""
    steps = {"stage1_inference_steps": 4, "stage2_inference_steps": 4}
    tree = compose(overrides)[0]
    methods = {stage: tree[stage] for stage in ("ss", "slat", "mesh", "exact")}
    pipeline.depth_model = None
    with ExitStack() as stack:
        report: Any = (
            stack.enter_context(fast_sam3d.accelerated(pipeline, methods)).report
            if overrides
            else stack.enter_context(observe(pipeline))
        )
        result = pipeline.run(
            rgba(), seed=0, pointmap=plane(), **{"decode_formats": ["mesh", "gaussian"], **options}, **steps
        )
    return tensors(result), report


def plane() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(1, -1, 48), torch.linspace(1, -1, 64), indexing="ij")
    return torch.stack([x, y, 3 + 0.5 * x], dim=-1)


@pytest.mark.parametrize("overrides", [[], METHODS], ids=["plain", "accelerated"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_runs_in_half_precision_are_finite(half: torch.dtype, overrides: list[str], weights: Weights) -> None:
    want, _ = run(pipeline_on(CPU, weights), overrides, stage1_only=True)
    result, report = run(pipeline_on(CPU, weights, half), overrides)
    assert all(tensor.isfinite().all() for name, tensor in result.items() if name != "pointmap")
    assert report.remarks() == []
    for name in ("shape", "rotation", "translation", "scale"):
        away = (result[name] - want[name]).abs().max() / want[name].abs().max()
        assert away < (0.02 if half is torch.float16 else 0.2), name


@pytest.mark.parametrize(
    ("network", "layer", "stage"),
    [
        ("slat_decoder_mesh", "input_layer.weight", "mesh"),
        ("slat_decoder_mesh", "upsample.1.skip_connection.weight", "mesh"),
        ("slat_decoder_gs", "input_layer.weight", "gaussian"),
    ],
)
def test_decoders_whose_features_overflow_are_run_again_in_float32(
    network: str, layer: str, stage: str, weights: Weights
) -> None:
    large = enlarged(weights, network, layer)
    result, report = run(pipeline_on(CPU, large, torch.float16), [], decode_formats=[stage])
    assert [line for line in report.remarks() if AGAIN in line] == [f"{stage}: {AGAIN}"]
    assert all(tensor.isfinite().all() for name, tensor in result.items() if name.startswith(stage))
    _, report = run(pipeline_on(CPU, large, torch.bfloat16), [], decode_formats=[stage])
    assert report.remarks() == []


@pytest.mark.parametrize("overrides", [[], METHODS], ids=["plain", "accelerated"])
@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (
            "ss_condition_embedder",
            "projection_nets.0.1.w1.weight",
            "the (sparse structure|pose|logits of .*) (is|are) not finite",
        ),
        ("ss_generator", "reverse_fn.backbone.blocks.1.mlp.shape.mlp.2.weight", "sparse structure (is|are) not finite"),
        (
            "ss_generator",
            "reverse_fn.backbone.blocks.1.mlp.6drotation_normalized.mlp.2.weight",
            "the pose is not finite",
        ),
        ("slat_condition_embedder", "projection_nets.0.1.w1.weight", "structured latent is not finite"),
        ("slat_generator", "reverse_fn.backbone.blocks.1.mlp.mlp.2.weight", "structured latent is not finite"),
    ],
)
def test_samplers_and_embedders_that_overflow_give_no_result(
    network: str, layer: str, message: str, overrides: list[str], weights: Weights
) -> None:
    large = enlarged(weights, network, layer)
    with pytest.raises(FastSam3dError, match=f"{message}: run in float32 or bfloat16"):
        run(pipeline_on(CPU, large, torch.float16), overrides)
    result, _ = run(pipeline_on(CPU, large, torch.bfloat16), overrides, decode_formats=["gaussian"])
    assert all(tensor.isfinite().all() for name, tensor in result.items() if name != "pointmap")


def test_norms_are_computed_in_float32() -> None:
    """Values whose squares half precision cannot hold."""
    from fast_sam3d.model.layers import HeadRMSNorm, LayerNorm32
    from fast_sam3d.native.structure_decoder import ChannelNorm

    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) * 3e4
    for norm in (LayerNorm32(8), HeadRMSNorm(2, 8), HeadRMSNorm(2, 8, floor=False), ChannelNorm(2)):
        assert isinstance(norm, nn.Module)
        got = norm(x.half())
        assert got.dtype is torch.float16
        torch.testing.assert_close(got.float(), norm(x.half().float()), rtol=2e-3, atol=2e-3)
