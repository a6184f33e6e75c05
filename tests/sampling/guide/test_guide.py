"""The unconditional call, against guidance written out by hand on the same networks."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.errors import ConfigError
from fast_sam3d.model.flow import time_grid
from fast_sam3d.sampling.guide.adaptive import Adaptive, cosine
from fast_sam3d.sampling.guide.reuse import Reuse
from fast_sam3d.sampling.syncs import Syncs
from tests.fakes import FakePipeline, equal, same_vars, snapshot

STEPS, GUIDED = 25, 19
GRID = time_grid(STEPS, 3.0).tolist()
COND = torch.linspace(0, 1, 7) * 2 - 1


def calls(pipeline: FakePipeline) -> dict[str, int]:
    return {stage: pipeline.models[f"{stage}_generator"].reverse_fn.backbone.calls for stage in ("ss", "slat")}


def slow(pipeline: FakePipeline, choose: Any) -> dict[str, Tensor]:
    """Euler steps of the structure; choose(step, c, u()) -> the unconditional velocity."""
    backbone = pipeline.models["ss_generator"].reverse_fn.backbone
    torch.manual_seed(0)
    generator = pipeline.models["ss_generator"]
    x = generator._generate_noise(SHAPES, "cpu")
    for step, (t, following) in enumerate(pairwise(GRID)):
        time, d = torch.tensor([t * 1000], dtype=torch.float32), torch.zeros(1)
        with torch.no_grad():
            c = backbone(x, time, COND, d=d)
            v = c
            if step < GUIDED:
                state = x

                def unconditional(state: Any = state, time: Tensor = time) -> dict[str, Tensor]:
                    return backbone(state, time, COND, d=torch.zeros(1), cfg=True)

                u = choose(step, c, unconditional)
                v = {name: 8.0 * c[name] - 7.0 * u[name] for name in c}
        x = {name: x[name] + v[name] * (following - t) for name in x}
    return x


from tests.fakes import SS_SHAPES as SHAPES  # noqa: E402


def guided(guide: dict[str, Any], **parts: Any) -> tuple[dict[str, Tensor], Any, dict[str, int]]:
    pipeline = FakePipeline(STEPS)
    with fast_sam3d.accelerated(pipeline, {"ss": {"guide": guide, **parts}}) as handle:
        result = pipeline.run(seed=0)
    return result, handle.report.solves[0], calls(pipeline)


@pytest.mark.parametrize(("interval", "warmup"), [(5, 3), (2, 1), (100, 4)])
def test_reuse_against_a_slow_reference(interval: int, warmup: int) -> None:
    result, record, counts = guided({"name": "reuse", "interval": interval, "warmup": warmup})
    made: list[int] = []
    kept: dict[str, Tensor] = {}

    def choose(step: int, c: dict[str, Tensor], u: Any) -> dict[str, Tensor]:
        if step < warmup or (step - warmup) % interval == interval - 1:
            made.append(step)
            fresh = u()
            kept.update({name: fresh[name] - c[name] for name in c})
            return fresh
        return {name: c[name] + kept[name] for name in c}

    expected = slow(FakePipeline(STEPS), choose)
    for name in SHAPES:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-4)
    assert counts["ss"] == record.calls == STEPS + len(made)
    assert record.saved == GUIDED - len(made) > 0
    assert counts["slat"] == 38
    assert [step.network_calls for step in record.steps] == [1 + (i in made) for i in range(STEPS)]


@pytest.mark.parametrize("threshold", [-1.0, 0.9, 0.97, 1.5])
def test_adaptive_against_a_slow_reference(threshold: float) -> None:
    result, record, counts = guided({"name": "adaptive", "threshold": threshold})
    made: list[int] = []
    similar: list[float] = []

    def choose(step: int, c: dict[str, Tensor], u: Any) -> dict[str, Tensor]:
        if similar and similar[-1] >= threshold:
            return c
        fresh = u()
        made.append(step)
        a, b = (np.concatenate([tree[name].numpy().ravel() for name in SHAPES]) for tree in (c, fresh))
        similar.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        return fresh

    expected = slow(FakePipeline(STEPS), choose)
    for name in SHAPES:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-4)
    assert counts["ss"] == record.calls == STEPS + len(made)
    assert len(made) == (1 if threshold < 0 else GUIDED if threshold > 1 else len(made))
    assert record.saved == GUIDED - len(made)


@pytest.mark.parametrize(
    "guide", [{"name": "both"}, {"name": "reuse", "interval": 1}, {"name": "adaptive", "threshold": 1.5}]
)
def test_limits_are_bit_exact(guide: dict[str, Any]) -> None:
    result, record, _ = guided(guide)
    assert equal(result, FakePipeline(STEPS).run(seed=0))
    assert record.saved == 0


def test_with_skipped_steps_the_report_counts_both_savings() -> None:
    when = {"name": "stride", "stride": 3, "warmup": 2}
    _, record, counts = guided({"name": "reuse"}, when=when, predict={"name": "taylor"})
    assert record.calls == counts["ss"]
    assert record.calls + record.saved == 44
    assert record.calls < 17  # calls with the stride alone


def test_guide_can_be_removed_replaced_and_copied() -> None:
    pipeline = FakePipeline(STEPS)
    plain = pipeline.run(seed=0)
    before = snapshot(pipeline)
    fast_sam3d.accelerate(pipeline, {"ss": {"guide": {"name": "reuse"}}, "slat": {"guide": {"name": "adaptive"}}})
    expected = pipeline.run(seed=0)
    assert not equal(expected, plain)
    twin = copy.deepcopy(pipeline)
    assert equal(twin.run(seed=0), expected)
    # Without a guide the seam on the network must be removed.
    handle = fast_sam3d.accelerate(pipeline, {"ss": {"when": {"name": "always"}}})
    assert "forward" not in vars(pipeline.models["ss_generator"].reverse_fn.backbone)
    assert equal(pipeline.run(seed=0), plain)
    handle.remove()
    assert same_vars(before, snapshot(pipeline))
    fast_sam3d.restore(twin)
    assert equal(twin.run(seed=0), plain)


@pytest.mark.parametrize("change", ["handling", "compiled", "three calls"])
def test_guidance_of_another_kind_is_refused_before_anything_is_touched(change: str) -> None:
    pipeline = FakePipeline(STEPS)
    guidance = pipeline.models["ss_generator"].reverse_fn
    if change == "handling":
        guidance.unconditional_handling = "zeros"
    elif change == "compiled":
        guidance.inner_forward = lambda *args: None
    else:
        guidance.__class__ = type("PointmapCFG", (type(guidance),), {})
    before = snapshot(pipeline)
    with pytest.raises(ConfigError, match=r"ss\.guide cannot act on this pipeline, because its"):
        fast_sam3d.accelerate(pipeline, {"ss": {"guide": {"name": "reuse"}}})
    assert same_vars(before, snapshot(pipeline))
    fast_sam3d.accelerate(pipeline, {"ss": {"guide": {"name": "both"}}})


def test_a_difference_of_other_tokens_is_not_used() -> None:
    guiding = Reuse(interval=9, warmup=1).start()
    some, fewer = {"x": torch.ones(1, 4, 2)}, {"x": torch.ones(1, 3, 2)}
    assert guiding.stand_in(some) is None
    guiding.learn(some, {"x": torch.zeros(1, 4, 2)})
    assert guiding.stand_in(fewer) is None
    assert guiding.stand_in(some) is not None


def test_cosine_and_threshold_by_hand() -> None:
    a = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert cosine(a, {"a": torch.tensor([3.0]), "b": torch.zeros(1)}, Syncs()) == pytest.approx(0.6)
    for threshold, dropped in ((0.59, True), (0.61, False)):
        guiding = Adaptive(threshold).start()
        assert guiding.stand_in(a) is None
        guiding.learn(a, {"a": torch.tensor([3.0]), "b": torch.zeros(1)})
        assert (guiding.stand_in(a) is a) == dropped
    assert cosine({"a": torch.zeros(3)}, {"a": torch.ones(3)}, Syncs()) == 0


@pytest.mark.parametrize(
    ("kind", "settings"), [(Reuse, {"interval": 0}), (Reuse, {"warmup": 0}), (Adaptive, {"threshold": 3})]
)
def test_invalid_settings_are_refused(kind: type, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is"):
        kind(**settings)
