"""Presets on a pipeline that has its own in place of some, with TRELLIS as the example."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.config.compose import load
from fast_sam3d.config.resolve import resolve
from fast_sam3d.errors import ConfigError
from fast_sam3d.install import plan
from tests.trellis_like import picture, random_image

OWN = {"default": "trellis", "fast": "trellis_fast"}
PUBLISHED = {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """With the samplers of TRELLIS-image-large."""
    pipeline = random_image()
    pipeline.sparse_structure_sampler_params = pipeline.slat_sampler_params = PUBLISHED
    return pipeline


@pytest.mark.parametrize(
    ("config", "overrides", "name", "composed"),
    [
        (None, [], "default", "trellis"),
        ("fast", [], "fast", "trellis_fast"),
        (None, ["preset=fast"], "fast", "trellis_fast"),
        ("fast_trellis", [], "fast_trellis", None),
        ("trellis_fast", [], "trellis_fast", None),
    ],
)
def test_a_preset_is_replaced_by_the_models_own(
    config: Any, overrides: list[str], name: str, composed: str | None
) -> None:
    asked = resolve(config, None, overrides, OWN)
    assert (asked.preset, asked.composed) == (name, composed)
    assert asked.modules == load([f"preset={composed or name}"]).modules
    assert all(map(asked.shipped, ("ss", "slat", "mesh", "exact")))


def test_a_whole_configuration_takes_the_models_own_where_nothing_was_overridden() -> None:
    own, changed = load(["preset=trellis"]).modules, load(["preset=default", "slat=multistep"])
    asked = resolve(changed, None, [], OWN)
    assert asked.modules == {**own, "slat": changed.modules["slat"]}
    assert (asked.shipped("ss"), asked.shipped("slat")) == (True, False)
    assert resolve(changed, None, []).modules == changed.modules
    assert resolve(load(["ss=hicache"]), None, [], OWN).modules == load(["ss=hicache"]).modules


def test_overrides_change_the_models_own_preset(pipeline: Any) -> None:
    methods, _ = plan(adapt(pipeline), "default", overrides=["ss.when.nodes=[0,9]", "ss.predict.weights=[[],[1]]"])
    assert methods["ss"].settings()["when"]["nodes"] == [0, 9]


@pytest.mark.parametrize("method", ["fast_sam3d", "path"])
def test_predictors_of_a_layout_are_left_out_with_one_line(
    pipeline: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"ss": load([f"ss={method}"]).modules["ss"]}
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        methods, _ = plan(adapt(pipeline), config)
    assert [*methods["ss"].settings()["predict"]] == ["shape"]
    assert [record.getMessage() for record in caplog.records] == [
        "ss.predict.layout is left out: this model has no layout"
    ]


def test_merging_voxels_before_the_latent_is_refused(pipeline: Any) -> None:
    with pytest.raises(ConfigError, match="mesh.where=voxels cannot act .* no pose") as failure:
        plan(adapt(pipeline), "release")
    assert "\n" not in str(failure.value)


@torch.no_grad()
def sampled(pipeline: Any, config: Any = None) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The latents of both stages on the same voxels, and their network calls."""
    cond = pipeline.get_cond([pipeline.preprocess_image(picture())])
    voxels = torch.cartesian_prod(torch.zeros(1), *[torch.arange(0.0, 8.0, 2.0)] * 3).int()
    states: dict[str, Tensor] = {}
    decoder = pipeline.models["sparse_structure_decoder"]
    hook = decoder.register_forward_hook(lambda module, args, out: states.update(ss=args[0]))
    with fast_sam3d.accelerated(pipeline, config) if config else fast_sam3d.observe(pipeline) as handle:
        report = handle.report if config else handle
        torch.manual_seed(0)
        pipeline.sample_sparse_structure(cond)
        states["slat"] = pipeline.sample_slat(cond, voxels).feats
    hook.remove()
    return states, {solve.stage: solve.calls for solve in report.solves}


def drift(found: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, float]:
    return {stage: float((found[stage] - base[stage]).norm() / base[stage].norm()) for stage in base}


def compare(pipeline: Any) -> None:
    """Network calls, and drift beside Fast-TRELLIS's settings: as published, and with at least as many calls."""
    base, plain = sampled(pipeline)
    own, calls = sampled(pipeline, "default")
    assert (plain, calls) == ({"ss": 44, "slat": 44}, {"ss": 16, "slat": 10})
    assert sampled(pipeline, "fast")[1] == {"ss": 10, "slat": 8}
    published, few = sampled(pipeline, "fast_trellis")
    assert few["ss"] == 14
    rival = load(["preset=fast_trellis", "ss.when.stride=3", "slat.when.threshold=0.5"]).modules
    other, many = sampled(pipeline, {stage: rival[stage] for stage in ("ss", "slat")})
    assert all(many[stage] >= calls[stage] for stage in calls), many
    for stage, away in drift(own, base).items():
        assert away < 0.5 * min(drift(published, base)[stage], drift(other, base)[stage])


def test_calls_and_drift_of_the_presets(pipeline: Any) -> None:
    compare(pipeline)
