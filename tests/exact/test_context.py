"""Cached contexts and the unconditional shortcut, on a pipeline of the embedded classes."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.errors import ConfigError
from fast_sam3d.exact import Exact
from fast_sam3d.exact.context import Contexts, KeysSeam
from fast_sam3d.model.flow import ClassifierFreeGuidance
from fast_sam3d.model.layers import CrossAttention
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.patch import seam_at
from tests.fakes import same_vars, snapshot
from tests.minis import STEPS, picture, random_mini

OFF = dict.fromkeys(Exact().settings(), False)
CONTEXT = {"exact": {"unconditional": False, "context": True}}
SHORTCUT = {"exact": {"unconditional": True, "context": False}}
BOTH = {"exact": {"unconditional": True, "context": True}}
CACHED = {"ss": {"when": {"name": "stride"}}, "slat": {"when": {"name": "stride", "stride": 2}}}


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    pipeline = random_mini()
    before = snapshot(pipeline)
    yield pipeline
    assert same_vars(before, snapshot(pipeline))


def run(pipeline: Pipeline) -> dict[str, Any]:
    return pipeline.run(*picture(), seed=0, decode_formats=["gaussian"])


def latents(result: dict[str, Any]) -> dict[str, Tensor]:
    names = ("shape", "6drotation_normalized", "scale", "translation", "translation_scale", "coords")
    return {name: result[name] for name in names} | {"gaussians": result["gaussian"][0].get_xyz}


@contextlib.contextmanager
def counted_rows(pipeline: Pipeline, stage: str, part: str) -> Iterator[list[int]]:
    """Rows that pass through the projections `part` of a stage's cross-attentions, one number per call."""
    rows: list[int] = []
    backbone = pipeline.models[f"{stage}_generator"].reverse_fn.backbone
    parts = {id(module) for name, module in backbone.named_modules() if "cross_attn" in name and name.endswith(part)}
    forward = nn.Linear.forward

    def counting(linear: nn.Linear, x: Tensor) -> Tensor:
        if id(linear) in parts:
            rows.append(x[..., 0].numel())
        return forward(linear, x)

    with pytest.MonkeyPatch.context() as patch:  # the class: an instance's forward is what is patched
        patch.setattr(nn.Linear, "forward", counting)
        yield rows


def layers(pipeline: Pipeline, stage: str) -> int:
    blocks = len(pipeline.models[f"{stage}_generator"].reverse_fn.backbone.blocks)
    return 2 * blocks if stage == "ss" else blocks  # shape and layout


@pytest.mark.parametrize("method", [{}, CACHED], ids=["plain", "cached"])
def test_cached_context_is_bit_identical(pipeline: Pipeline, method: dict[str, Any]) -> None:
    with fast_sam3d.accelerated(pipeline, {**method, "exact": {"unconditional": False, "context": False}}):
        plain = latents(run(pipeline))
    with fast_sam3d.accelerated(pipeline, {**method, **CONTEXT}):
        kept = latents(run(pipeline))
    for name, value in plain.items():
        assert torch.equal(kept[name], value), name


@pytest.mark.parametrize("method", [{}, CACHED], ids=["plain", "cached"])
def test_the_unconditional_shortcut_stays_within_rounding(pipeline: Pipeline, method: dict[str, Any]) -> None:
    with fast_sam3d.accelerated(pipeline, {**method, "exact": {"unconditional": False, "context": False}}):
        plain = latents(run(pipeline))
    for savings in (SHORTCUT, BOTH):
        with fast_sam3d.accelerated(pipeline, {**method, **savings}):
            short = latents(run(pipeline))
        assert torch.equal(short.pop("coords"), plain["coords"])
        for name, value in short.items():
            assert (value - plain[name]).norm() <= 1e-5 * plain[name].norm(), name


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_keys_and_values_are_computed_once_per_solve(pipeline: Pipeline, stage: str) -> None:
    with counted_rows(pipeline, stage, "to_kv") as rows, fast_sam3d.accelerated(pipeline, CONTEXT) as handle:
        for _ in range(2):
            rows.clear()
            run(pipeline)
            solve = next(solve for solve in reversed(handle.report.solves) if solve.stage == stage)
            guided = solve.calls - STEPS
            assert guided > 1
            assert len(rows) == (1 + guided) * layers(pipeline, stage)


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_shortcut_calls_each_layer_once_per_solve(pipeline: Pipeline, stage: str) -> None:
    with counted_rows(pipeline, stage, "to_q") as rows, fast_sam3d.accelerated(pipeline, SHORTCUT):
        run(pipeline)
        rows.clear()
        run(pipeline)  # the first run also tried the constants
    assert rows.count(1) == layers(pipeline, stage)
    assert len(rows) == (STEPS + 1) * layers(pipeline, stage)


def test_cache_is_reported_and_freed_after_the_solve(pipeline: Pipeline) -> None:
    with fast_sam3d.accelerated(pipeline, CONTEXT) as handle:
        run(pipeline)
        ss, slat = handle.report.solves
        gc.collect()
        assert not any(type(thing) is Contexts and thing.kept for thing in gc.get_objects())
    ss_flow, slat_flow = pipeline.config.ss_flow, pipeline.config.slat_flow
    tokens = 65  # 8 x 8 patches and the descriptor
    assert ss.context_bytes == 4 * tokens * 2 * ss_flow.model_channels * 2 * ss_flow.num_blocks
    assert slat.context_bytes == 4 * tokens * 2 * slat_flow.model_channels * slat_flow.num_blocks
    assert handle.report.to_dict()["solves"][0]["context_bytes"] == ss.context_bytes


def test_interleaved_solves_have_separate_contexts(pipeline: Pipeline) -> None:
    generator = pipeline.models["ss_generator"]
    shapes = {name: (1, *shape) for name, shape in pipeline.config.ss_flow.leaf_shapes.items()}
    conditions = [torch.randn(1, 65, pipeline.config.ss_flow.cond_channels) for _ in range(2)]

    def solve(number: int) -> Iterator[Any]:
        torch.manual_seed(number)
        return generator.generate_iter(shapes, "cpu", conditions[number])

    with torch.no_grad():
        alone = [[state["shape"] for _, state, _ in solve(number)] for number in range(2)]
        with fast_sam3d.accelerated(pipeline, CONTEXT):
            first, second = solve(0), solve(1)
            woven = []
            for number, iterator in enumerate((first, second)):  # the noise is drawn at the first step
                torch.manual_seed(number)
                woven.append([next(iterator)[1]["shape"]])
            for _ in range(len(alone[0]) - 1):
                woven[1].append(next(second)[1]["shape"])
                woven[0].append(next(first)[1]["shape"])
    for mine, own in zip(woven, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, own, strict=True))


def test_changed_condition_in_mid_solve_is_detected(pipeline: Pipeline) -> None:
    """Same calls as guidance with and without a pointmap."""

    guidance = pipeline.models["ss_generator"].reverse_fn
    guidance.__class__ = TwoConditions
    plain = latents(run(pipeline))
    with fast_sam3d.accelerated(pipeline, CONTEXT):
        kept = latents(run(pipeline))
    guidance.__class__ = ClassifierFreeGuidance
    assert not torch.equal(plain["shape"], latents(run(pipeline))["shape"])
    assert all(torch.equal(kept[name], value) for name, value in plain.items())


class TwoConditions(ClassifierFreeGuidance):
    def inner_forward(self, x: Any, t: Tensor, is_cond: bool, strength: float, cond: Tensor, **kwargs: Any) -> Any:
        first, second = self.backbone(x, t, cond, **kwargs), self.backbone(x, t, cond.flip(1) * 2, **kwargs)
        return {name: first[name] + second[name] for name in first}


class Biased(CrossAttention):
    """An attention that depends on the query even if the context is empty."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return super().forward(x, context) + 0.1 * x


def test_an_attention_of_another_kind_is_skipped_with_a_log_message(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    for block in pipeline.models["ss_generator"].reverse_fn.backbone.blocks:
        block.cross_attn["shape"].__class__ = Biased
    plain = latents(run(pipeline))
    with caplog.at_level(logging.WARNING), fast_sam3d.accelerated(pipeline, SHORTCUT):
        short = latents(run(pipeline))
        again = latents(run(pipeline))
    said = [record.message for record in caplog.records if "depends on the query" in record.message]
    assert len(said) == len(pipeline.models["ss_generator"].reverse_fn.backbone.blocks)
    assert "ss.blocks[0].cross_attn['shape']" in said[0]
    assert torch.equal(short["coords"], plain["coords"])
    assert (short["shape"] - plain["shape"]).norm() <= 1e-5 * plain["shape"].norm()
    assert torch.equal(short["shape"], again["shape"])


def test_nonzero_context_is_not_shortcut(pipeline: Pipeline) -> None:
    backbone = pipeline.models["ss_generator"].reverse_fn.backbone
    backbone.force_zeros_cond = False
    plain = latents(run(pipeline))
    with fast_sam3d.accelerated(pipeline, BOTH):
        short = latents(run(pipeline))
    del backbone.force_zeros_cond
    assert all(torch.equal(short[name], plain[name]) for name in ("shape", "coords", "scale"))


def test_a_flag_without_zeroes_disables_the_shortcut(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(type(pipeline.models["ss_generator"].reverse_fn.backbone)):  # type: ignore[misc]
        def forward(self, x: Any, t: Tensor, cond: Tensor, d: Any = None, cfg: bool = False) -> Any:
            return super().forward(x, t, cond * 0.5 if cfg else cond, d)

    pipeline.models["ss_generator"].reverse_fn.backbone.__class__ = Forgetful
    plain = latents(run(pipeline))
    with caplog.at_level(logging.WARNING), fast_sam3d.accelerated(pipeline, SHORTCUT):
        short = latents(run(pipeline))
    assert any("its context is not zero" in record.message for record in caplog.records)
    assert all(torch.equal(short[name], plain[name]) for name in ("shape", "coords", "scale"))


def test_a_network_without_cross_attention_is_skipped_with_a_log_message(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    for block in pipeline.models["slat_generator"].reverse_fn.backbone.blocks:
        block.attend_to_picture = block.cross_attn
        del block.cross_attn
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, BOTH):
        backbone = pipeline.models["slat_generator"].reverse_fn.backbone
        assert seam_at(backbone, "forward") is None
    assert any("slat" in r.message and "no cross-attention under the known names" in r.message for r in caplog.records)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_compiled_network_is_skipped_with_a_log_message(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture, hidden: bool
) -> None:
    guidance = pipeline.models["ss_generator"].reverse_fn
    compiled = torch.compile(guidance.inner_forward, backend="eager")
    # The stock pipeline hides it in a closure (inference_pipeline_pointmap.py, `compile_wrapper`).
    guidance.inner_forward = (lambda *args, **kwargs: compiled(*args, **kwargs)) if hidden else compiled
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, BOTH):
        assert seam_at(guidance.backbone, "forward") is None
        assert seam_at(pipeline.models["slat_generator"].reverse_fn.backbone, "forward") is not None
    del guidance.inner_forward
    assert any("ss" in r.message and "is compiled" in r.message for r in caplog.records)


def test_no_cache_outside_a_solve(pipeline: Pipeline) -> None:
    attention = pipeline.models["ss_generator"].reverse_fn.backbone.blocks[0].cross_attn["shape"]
    with fast_sam3d.accelerated(pipeline, BOTH), torch.no_grad():
        assert isinstance(seam_at(attention.to_kv, "forward"), KeysSeam)
        a, b = torch.randn(2, 1, 5, pipeline.config.ss_flow.cond_channels)
        assert not torch.equal(attention.to_kv(a), attention.to_kv(b))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"unconditonal": True}, "did you mean 'unconditional'"),
        ({"context": 1}, "exact.context is 1"),
        (3, "exact is 3"),
    ],
)
def test_invalid_settings_are_refused(pipeline: Pipeline, settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        fast_sam3d.accelerate(pipeline, {"exact": settings})


def test_all_savings_off_patches_nothing(pipeline: Pipeline) -> None:
    before = snapshot(pipeline)
    fast_sam3d.accelerate(pipeline, {"exact": dict.fromkeys(Exact().settings(), False)})
    assert same_vars(before, snapshot(pipeline))


def test_removed_saving_is_ignored_with_a_warning(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    for options in ({"config": {"exact": {"grids": False, "half": False}}}, {"overrides": ["exact.grids=false"]}):
        caplog.clear()
        with fast_sam3d.accelerated(pipeline, **options) as handle:
            assert "grids" not in handle.methods["exact"]
        assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
            "exact.grids is ignored: that saving was removed, because it made no measurable difference"
        ]
