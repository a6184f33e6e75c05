"""Linear layers that cast once, on a pipeline of the embedded classes under autocast."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fast_sam3d
from fast_sam3d.exact.half import LinearSeam
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.patch import seam_at
from tests.beds import EMBEDDED, differing
from tests.exact.test_passes import only
from tests.fakes import same_vars, snapshot
from tests.minis import random_mini

HALF = only("half")
STAGES = ("ss", "slat")


@pytest.fixture(scope="module")
def shared() -> Pipeline:
    pipeline = random_mini()
    pipeline.dtype = pipeline.shape_model_dtype = torch.bfloat16
    EMBEDDED.run(pipeline)
    return pipeline


@pytest.fixture
def pipeline(shared: Pipeline) -> Iterator[Pipeline]:
    before = snapshot(shared)
    yield shared
    assert same_vars(before, snapshot(shared))


def network(pipeline: Pipeline, stage: str) -> Any:
    return pipeline.models[f"{stage}_generator"].reverse_fn.backbone


def layers(pipeline: Pipeline, stage: str) -> list[nn.Linear]:
    """The layers that must have a seam."""
    return [
        part
        for name, part in network(pipeline, stage).named_modules()
        if isinstance(part, nn.Linear) and not name.endswith("to_kv")
    ]


class Casts(TorchDispatchMode):
    """Counts how often each of some weights is cast."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        super().__init__()
        self.counts = {linear.weight.data_ptr(): 0 for linear in linears}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.counts:
            self.counts[args[0].data_ptr()] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("others", [{}, {"ss": {"when": {"name": "stride"}}, "slat": {"when": {"name": "stride"}}}])
def test_results_are_bit_identical(others: dict[str, Any], pipeline: Pipeline) -> None:
    with fast_sam3d.accelerated(pipeline, {**others, **only("context")}):
        plain = EMBEDDED.run(pipeline)
    for savings in (HALF, only("half", "context")):
        with fast_sam3d.accelerated(pipeline, {**others, **savings}):
            assert differing(EMBEDDED.run(pipeline), plain) == set()
            assert differing(EMBEDDED.run(pipeline), plain) == set()


def test_weights_are_cast_once(pipeline: Pipeline) -> None:
    linears = [linear for stage in STAGES for linear in layers(pipeline, stage)]
    with Casts(linears) as plain:
        EMBEDDED.run(pipeline)
    assert max(plain.counts.values()) > 10
    with fast_sam3d.accelerated(pipeline, HALF):
        with Casts(linears) as first:
            EMBEDDED.run(pipeline)
        with Casts(linears) as second:
            EMBEDDED.run(pipeline)
    # A layer outside autocast, such as an output layer in float32, is not cast at all.
    assert {pointer: min(count, 1) for pointer, count in plain.counts.items()} == first.counts
    assert set(second.counts.values()) == {0}


def test_the_memory_is_half_of_the_weights_and_freed(pipeline: Pipeline) -> None:
    handle = fast_sam3d.accelerate(pipeline, HALF)
    EMBEDDED.run(pipeline)
    seams = [seam_at(linear, "forward") for stage in STAGES for linear in layers(pipeline, stage)]
    for seam in seams:
        assert isinstance(seam, LinearSeam)
        if seam.half is not None:
            assert seam.half.weight.dtype is torch.bfloat16
            assert seam.half.weight.shape == seam.owner().weight.shape
    assert sum(seam.half is not None for seam in seams) > 0.9 * len(seams)  # type: ignore[union-attr]
    twin = copy.deepcopy(pipeline)
    assert all(seam_at(linear, "forward").half is None for linear in layers(twin, "ss"))  # type: ignore[union-attr]
    handle.remove()
    assert all(seam.half is None for seam in seams)  # type: ignore[union-attr]


def test_changed_weights_are_cast_again(shared: Pipeline) -> None:
    pipeline = copy.deepcopy(shared)
    with fast_sam3d.accelerated(pipeline, HALF):
        results = [EMBEDDED.run(pipeline)]
        linear = network(pipeline, "ss").blocks[0].self_attn.to_out["shape"]
        with torch.no_grad():
            linear.weight.mul_(1.5)
        results.append(EMBEDDED.run(pipeline))
        linear.weight = nn.Parameter(linear.weight * 1.5, requires_grad=False)
        results.append(EMBEDDED.run(pipeline))
        linear.bias.data = linear.bias.data + 1
        results.append(EMBEDDED.run(pipeline))
        linear.load_state_dict({name: value * 1.5 for name, value in linear.state_dict().items()})
        results.append(EMBEDDED.run(pipeline))
    assert differing(EMBEDDED.run(pipeline), results[-1]) == set()
    assert all("shape" in differing(a, b) for a, b in itertools.pairwise(results))


def test_what_was_cast_is_freed_with_the_weights(shared: Pipeline) -> None:
    pipeline = copy.deepcopy(shared)
    with fast_sam3d.accelerated(pipeline, HALF):
        want = EMBEDDED.run(pipeline)
        linears = layers(pipeline, "ss")
        kept = [linear.state_dict() for linear in linears]
        for linear in linears:  # as a memory plan lets them leave the device
            meta = {name: torch.empty_like(value, device="meta") for name, value in linear.state_dict().items()}
            linear.load_state_dict(meta, assign=True)
        assert all(seam_at(linear, "forward").half is None for linear in linears)  # type: ignore[union-attr]
        for linear, state in zip(linears, kept, strict=True):
            linear.load_state_dict(state, assign=True)
        assert differing(EMBEDDED.run(pipeline), want) == set()


def test_no_cache_without_autocast(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, HALF):
        assert not any(seam_at(linear, "forward") for stage in STAGES for linear in layers(pipeline, stage))
    assert not caplog.records
    pipeline.dtype = pipeline.shape_model_dtype = torch.bfloat16
    with fast_sam3d.accelerated(pipeline, HALF):
        linear = layers(pipeline, "ss")[0]
        x = torch.randn(2, linear.in_features)
        want = nn.functional.linear(x, linear.weight, linear.bias)
        assert torch.equal(linear(x), want)
        with torch.autocast("cpu", torch.bfloat16):
            linear.weight.requires_grad_(True)
            assert linear(x).requires_grad
            linear.weight.requires_grad_(False)
            with torch.no_grad():
                assert torch.equal(linear(x.double().float()), linear(x))
                assert linear(x).dtype is torch.bfloat16
        seam = seam_at(linear, "forward")
        assert isinstance(seam, LinearSeam)
        assert seam.half is not None


def test_weights_that_are_half_already_are_skipped_with_a_log_message(
    shared: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = copy.deepcopy(shared)
    for linear in layers(pipeline, "slat"):
        linear.bfloat16()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, HALF):
        assert not any(seam_at(linear, "forward") for linear in layers(pipeline, "slat"))
        assert all(seam_at(linear, "forward") for linear in layers(pipeline, "ss"))
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("slat: exact.half stays off, because it has no linear layers")


def test_a_compiled_network_is_skipped_with_a_log_message(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    guidance = pipeline.models["ss_generator"].reverse_fn
    inner = guidance.inner_forward
    guidance.inner_forward = lambda *args, **kwargs: inner(*args, **kwargs)
    try:
        with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, HALF):
            assert not any(seam_at(linear, "forward") for linear in layers(pipeline, "ss"))
    finally:
        del guidance.inner_forward
    assert [r.message for r in caplog.records] == [
        "ss: exact.half stays off, because its network is compiled or wrapped"
    ]
