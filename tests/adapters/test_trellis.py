from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from functools import cache
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.object import RunSettings, run_object
from fast_sam3d.sampling.stage import SolverError
from tests.contract import METHODS
from tests.fakes import same_vars
from tests.minis import picture as image_and_mask
from tests.trellis_like import picture, random_image, random_second, random_text, samplers
from tests.trellis_like.beds import STAND_IN
from tests.trellis_like.samplers import FlowEulerCfgSampler, FlowEulerGuidanceIntervalSampler, FlowEulerSampler


@cache
def shared() -> Any:
    return random_image()


@pytest.fixture
def pipeline() -> Iterator[Any]:
    """One that must be restored."""
    before = STAND_IN.snapshot(shared())
    yield shared()
    assert same_vars(before, STAND_IN.snapshot(shared()))


def test_an_object_of_a_picture_and_a_mask_has_no_pose(pipeline: Any) -> None:
    image, mask = image_and_mask()
    run = run_object(pipeline, image, mask, settings=RunSettings(seed=3, ss_steps=4, slat_steps=5))
    again = run_object(pipeline, image, mask, settings=RunSettings(seed=3, ss_steps=4, slat_steps=5))
    assert run.runtime == "trellis" and run.formats == ("mesh", "gaussian") and not run.pose_refined
    assert run.result.keys() == {"mesh", "gaussian", "coords"}
    assert len(run.result["coords"]) == len(run.result["gaussian"][0].get_xyz)
    assert [(solve.stage, solve.steps_planned) for solve in run.report.solves] == [("ss", 4), ("slat", 5)]
    assert {"preprocess", "condition", "ss", "slat", "mesh", "gaussian"} <= run.report.seconds.keys()
    assert torch.equal(run.result["gaussian"][0].get_xyz, again.result["gaussian"][0].get_xyz)


@pytest.mark.parametrize("build", [random_text, random_second])
def test_a_pipeline_without_a_mesh_of_a_picture_is_refused(build: Any) -> None:
    image, mask = image_and_mask()
    with pytest.raises(FastSam3dError, match="call its own `run`"):
        run_object(build(), image, mask)


@pytest.mark.parametrize(
    ("kind", "given", "guided"),
    [
        (FlowEulerGuidanceIntervalSampler, {"cfg_strength": 3.0, "cfg_interval": [0.5, 1.0]}, 7),
        (FlowEulerGuidanceIntervalSampler, {"cfg_strength": 0.0, "cfg_interval": [0.0, 1.0]}, 8),
        (FlowEulerGuidanceIntervalSampler, {"cfg_interval": [2.0, 3.0]}, 0),
        (FlowEulerCfgSampler, {"cfg_strength": 3.0}, 8),
        (FlowEulerSampler, {}, 0),
    ],
)
def test_every_sampler_of_the_package(kind: Any, given: dict[str, Any], guided: int, pipeline: Any) -> None:
    before = pipeline.sparse_structure_sampler, pipeline.sparse_structure_sampler_params
    pipeline.sparse_structure_sampler, pipeline.sparse_structure_sampler_params = (
        kind(1e-5),
        {"steps": 8, "rescale_t": 3.0, **given},
    )
    get_cond = pipeline.get_cond
    if kind is FlowEulerSampler:  # takes no negative condition
        pipeline.get_cond = lambda images: {"cond": get_cond(images)["cond"]}
    try:
        with STAND_IN.counted_calls(pipeline) as counts:
            STAND_IN.structure(pipeline)
        assert counts["ss"] == 8 + guided
        with fast_sam3d.accelerated(pipeline, METHODS["hold"]) as handle, STAND_IN.counted_calls(pipeline) as counts:
            STAND_IN.structure(pipeline)
        (solve,) = handle.report.solves
        assert solve.calls == counts["ss"] and solve.calls + solve.saved == 8 + guided
        assert solve.saved > 0
        if kind is not FlowEulerSampler:
            assert adapt(pipeline).network_calls("ss") == (8, guided)
    finally:
        pipeline.sparse_structure_sampler, pipeline.sparse_structure_sampler_params = before
        vars(pipeline).pop("get_cond", None)


def test_a_sampler_is_called_by_keywords(pipeline: Any) -> None:
    network, cond = pipeline.models["sparse_structure_flow_model"], torch.randn(1, 5, 16)
    noise, sampler = torch.randn(2, 8, 4, 4, 4), pipeline.sparse_structure_sampler
    given = {
        "model": network,
        "noise": noise,
        "cond": cond,
        "neg_cond": torch.zeros_like(cond),
        "steps": 4,
        "verbose": False,
    }
    plain = sampler.sample(**given)
    with fast_sam3d.observe(pipeline) as report:
        seen = sampler.sample(**given)
    assert torch.equal(seen.samples, plain.samples) and type(seen) is type(plain)
    assert all(
        torch.equal(a, b) for key in ("pred_x_t", "pred_x_0") for a, b in zip(seen[key], plain[key], strict=True)
    )
    assert [solve.calls for solve in report.solves] == [8]
    assert inspect.signature(type(sampler).sample).parameters["steps"].default == 50


def test_a_step_that_other_code_wraps_runs_as_it_is(pipeline: Any, caplog: pytest.LogCaptureFixture) -> None:
    sampler = pipeline.slat_sampler
    plain = pipeline.run(picture(), seed=0, formats=["gaussian"])["gaussian"][0].get_xyz
    sampler.sample_once = MethodType(type(sampler).sample_once, sampler)
    try:
        with caplog.at_level(logging.WARNING), fast_sam3d.accelerated(pipeline, METHODS["slat"]) as handle:
            run = pipeline.run(picture(), seed=0, formats=["gaussian"])["gaussian"][0].get_xyz
    finally:
        del sampler.sample_once
    assert torch.equal(run, plain) and handle.report.network_calls_saved == 0
    assert "sample_once is wrapped by other code" in caplog.text


def test_settings_are_restored(pipeline: Any) -> None:
    adapter, own = adapt(pipeline), pipeline.slat_sampler_params
    with adapter.steps_set({"slat": 3}), adapter.sampler_set("slat", rescale_t=2.0, strength=7.0):
        facts = adapter.sampler("slat")
        assert (facts["steps"], facts["rescale_t"], facts["guidance"], facts["interval"]) == (3, 2.0, 7.0, [0.5, 1.0])
    assert pipeline.slat_sampler_params is own


def test_an_exception_in_a_step_leaves_the_next_run_alone(pipeline: Any) -> None:
    plain = pipeline.run(picture(), seed=0, formats=["gaussian"])["gaussian"][0].get_xyz

    def stop(*args: Any) -> Tensor:
        raise RuntimeError("no memory")

    with fast_sam3d.accelerated(pipeline, METHODS["both"]):
        hook = pipeline.models["slat_flow_model"].register_forward_pre_hook(stop)
        with pytest.raises(RuntimeError, match="no memory"):
            pipeline.run(picture(), seed=0, formats=["gaussian"])
        hook.remove()
    assert torch.equal(pipeline.run(picture(), seed=0, formats=["gaussian"])["gaussian"][0].get_xyz, plain)


def test_times_that_are_compared_with_an_interval_are_the_samplers_own() -> None:
    """1 - (1 - t) is not t for every t, and the published interval begins at one of the times."""
    times = samplers.grid(25, 3.0)
    assert any(1 - (1 - t) != t for t in times)
    guided = [0.5 <= t <= 1.0 for t in times[:-1]]
    pipeline = random_image()
    pipeline.slat_sampler_params = {"steps": 25, "rescale_t": 3.0, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0]}
    assert adapt(pipeline).network_calls("slat") == (25, sum(guided)) == (25, 19)
    for low in times[[4, 18]]:
        pipeline.slat_sampler_params["cfg_interval"] = [float(low), 1.0]
        with STAND_IN.counted_calls(pipeline) as counts, fast_sam3d.observe(pipeline) as report:
            pipeline.run(picture(), seed=0, formats=[])
        assert counts["slat"] == report.solves[1].calls == 25 + int(np.sum(times[:-1] >= low))


def test_one_sampler_for_both_stages_is_refused() -> None:
    pipeline = random_image()
    pipeline.slat_sampler = pipeline.sparse_structure_sampler
    with pytest.raises(SolverError, match="one sampler for several stages"):
        fast_sam3d.accelerate(pipeline, {"slat": {"when": {"name": "stride"}}})


def test_a_sampler_without_settings_has_those_of_its_class() -> None:
    pipeline = random_image()
    pipeline.slat_sampler_params = {}
    adapter = adapt(pipeline)
    assert adapter.sampler("slat")["guidance"] == 3.0
    assert adapter.network_calls("slat") == (50, 50)  # on the whole interval
