"""The layout evaluated alone, against the network's own result."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters.layout import _norm, layout_stream, no_layout_stream
from fast_sam3d.errors import ConfigError
from fast_sam3d.model.config import LAYOUT_CHANNELS, LAYOUT_STREAM, SSFlowConfig
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.sampling.live import LiveLayout
from tests.beds import differing, tensors
from tests.fakes import same_vars, snapshot
from tests.minis import enliven, picture, random_mini, rgba

SMALL = SSFlowConfig(model_channels=24, num_blocks=3, num_heads=2, cond_channels=16, resolution=4)
PUBLISHED = dataclasses.replace(SMALL, patch_size=1, convention="published")
CONFIGS = {
    "embedded": SMALL,
    "shared modulation": dataclasses.replace(SMALL, share_mod=True),
    "no norm of queries and keys": dataclasses.replace(SMALL, qk_rms_norm=False),
    "norms in the cross-attention": dataclasses.replace(SMALL, qk_rms_norm_cross=True),
    "no step size": dataclasses.replace(SMALL, is_shortcut_model=False),
    "published": PUBLISHED,
}


def network(config: SSFlowConfig = SMALL, **attributes: Any) -> SparseStructureFlow:
    torch.manual_seed(0)
    made = SparseStructureFlow(config)
    enliven([made])
    for name, value in attributes.items():
        setattr(made, name, value)
    return made.eval().requires_grad_(False)


def inputs(made: Any, batch: int = 1, seed: int = 1) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Leaves, time and context."""
    generator = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(batch, *shape, generator=generator) for name, shape in made.leaf_shapes.items()}
    return x, torch.tensor([300.0]), torch.randn(batch, 7, made.config.cond_channels, generator=generator)


class Rested:
    """A network called as by a live layout: an evaluated step, then rested ones."""

    def __init__(self, made: Any, kept: bool | None = None) -> None:
        self.made, self.live = made, LiveLayout()

    def step(self, args: Any, guided: bool = True, **kwargs: Any) -> list[dict[str, Tensor]]:
        call = partial(self.live, partial(layout_stream, self.made), self.made, args)
        return [call({**kwargs, **({"cfg": True} if cfg else {})}) for cfg in ([False, True] if guided else [False])]

    def evaluated(self, args: Any, guided: bool = True, **kwargs: Any) -> list[dict[str, Tensor]]:
        self.live.before_evaluation(guided, True)
        return self.step(args, guided, **kwargs)

    def rested(self, args: Any, guided: bool = True, again: bool = True, **kwargs: Any) -> list[dict[str, Tensor]]:
        self.live.before_rest(0, guided, again)
        return self.step(args, guided, **kwargs)


def layout(velocity: dict[str, Tensor]) -> Tensor:
    return torch.cat([velocity[name] for name in LAYOUT_CHANNELS], dim=-1).float()


def same(got: dict[str, Tensor], expected: dict[str, Tensor], close: float = 1e-5) -> None:
    off = (layout(got) - layout(expected)).abs().max() / layout(expected).abs().max()
    assert float(off) < close
    assert all(got[name].dtype == expected[name].dtype for name in LAYOUT_CHANNELS)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_with_keys_of_the_same_step_it_is_the_full_evaluation(name: str, batch: int) -> None:
    made = network(CONFIGS[name])
    args, d = inputs(made, batch), torch.tensor([40.0])
    network_of = Rested(made)
    own = network_of.evaluated(args, d=d)
    for got, expected in zip(network_of.rested(args, d=d), own, strict=True):
        same(got, expected)
    assert (layout(own[0]) - layout(own[1])).abs().max() > 0.1 * layout(own[0]).abs().max()


@pytest.mark.parametrize("saving", ["keep_context", "constant_unconditional"])
def test_the_native_savings_change_nothing(saving: str) -> None:
    made = network(PUBLISHED, **{saving: True})
    args = inputs(made)
    with made.keeping(args[2]):
        rested = Rested(made)
        own = rested.evaluated(args)
        kept = made.context_bytes
        for got, expected in zip(rested.rested(args), own, strict=True):
            same(got, expected)
        assert made.context_bytes == kept


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize("stored", [False, True])
def test_in_half_precision(dtype: torch.dtype, close: float, stored: bool) -> None:
    """Under autocast, with weights stored in float32 or in half precision."""
    made = network(PUBLISHED)
    if stored:
        for part in made.modules():
            if isinstance(part, torch.nn.Linear):
                part.to(dtype)
    args = inputs(made, 2)
    with torch.autocast("cpu", dtype):
        rested = Rested(made)
        own = rested.evaluated(args)
        for got, expected in zip(rested.rested(args), own, strict=True):
            same(got, expected, close)
    assert {kept.dtype for kept in rested.live._keys.values()} == {dtype}


def test_other_states_and_times_are_those_of_a_network_whose_shape_stays() -> None:
    """The oracle: the full network at another time, its shape's keys and values replaced by those of the first call."""
    made = network()
    first, rested = inputs(made), Rested(made)
    x, _, context = inputs(made, seed=2)
    second = (x, torch.tensor([700.0]), context.copy_(first[2]))
    kept: dict[Any, Tensor] = {}

    def remember(module: Any, given: Any, result: Tensor) -> Tensor:
        part = result if "norm" in type(module).__name__.lower() else result[..., result.shape[-1] // 3 * 2 :]
        if id(module) not in kept:
            kept[id(module)] = part.clone()
        else:
            part.copy_(kept[id(module)])
        return result

    rested.evaluated(first, guided=False)
    (got,) = rested.rested(second, guided=False)
    for block in made.blocks:
        block.self_attn.to_qkv["shape"].register_forward_hook(remember)
        block.self_attn.k_rms_norm["shape"].register_forward_hook(remember)
    made(*first)
    same(got, made(*second))
    assert (layout(got) - layout(rested.rested(first, guided=False)[0])).abs().max() > 0.01


def test_the_networks_own_calls_are_bit_identical_and_leave_no_hooks() -> None:
    made = network()
    args, rested = inputs(made), Rested(made)
    own = rested.evaluated(args)
    for got, cfg in zip(own, (False, True), strict=True):
        expected = made(*args, cfg=cfg)
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not any(module._forward_hooks for module in made.modules())


def test_an_unconditional_branch_that_was_not_evaluated_keeps_its_difference() -> None:
    made = network()
    args, other = inputs(made), inputs(made, seed=2)
    rested = Rested(made)
    (conditional,) = rested.evaluated(args, guided=False)
    one, two = rested.rested(other)
    assert torch.equal(layout(one), layout(two))  # guidance did not act, and mixing them gives the conditional one

    # A method of guidance gave the unconditional velocity, without the network.
    rested.live.before_evaluation(True, True)
    given = {name: v + 0.5 for name, v in conditional.items()}
    describe = partial(layout_stream, made)
    rested.live(describe, made, args, {})
    rested.live(describe, lambda *args, **kwargs: given, args, {"cfg": True})
    one, two = rested.rested(other)
    assert torch.allclose(layout(two) - layout(one), torch.tensor(0.5), atol=1e-6)


def test_a_stream_that_does_not_hold_every_leaf_of_the_layout_is_refused() -> None:
    assert no_layout_stream(network()) is None
    made = network(latent_share_transformer={LAYOUT_STREAM: ["scale"]})
    assert "does not hold all layout leaves" in str(no_layout_stream(made))


def test_keys_go_on_by_a_part_of_the_way_that_they_came() -> None:
    made = network()
    held, ahead = Rested(made), Rested(made)
    ahead.live = LiveLayout(ahead=0.5)
    kept = []
    for seed in (1, 2, 3):
        for rested in (held, ahead):
            rested.evaluated(inputs(made, seed=seed), guided=seed < 3)  # guidance ends
        kept.append((held.live._keys[1][:1, :8].clone(), ahead.live._keys[1][:1, :8].clone()))
    (first, same_first), (second, further), (third, last) = kept
    assert torch.equal(first, same_first)
    assert torch.allclose(further, second + 0.5 * (second - first), atol=1e-6)
    assert torch.allclose(last, third + 0.5 * (third - further), atol=1e-6)


def test_modulation_of_all_steps_at_once_is_that_of_each() -> None:
    made = network()
    x, t, context = inputs(made)
    rested = Rested(made)
    rested.live = LiveLayout([100.0, 300.0, 700.0])
    own = rested.evaluated((x, t, context))
    rested.live.before_rest(1, True, True)
    for got, expected in zip(rested.step((x, t, context)), own, strict=True):
        same(got, expected)
    rested.live.before_rest(2, True, True)
    other = rested.step((x, torch.tensor([700.0]), context))
    assert (layout(other[0]) - layout(own[0])).abs().max() > 0.01


TIMES = [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0]


def solved(made: Any, device: str = "cpu") -> list[Tensor]:
    """The layout's velocities at the rested steps of a solve with two nodes under guidance and one after it."""
    x, _, context = inputs(made)
    x, context = {name: leaf.to(device) for name, leaf in x.items()}, context.to(device)
    rested, found = Rested(made), []
    rested.live = LiveLayout(TIMES, ahead=0.4)
    for step, time in enumerate(TIMES):
        args = ({name: leaf + 0.1 * step for name, leaf in x.items()}, torch.tensor([time], device=device), context)
        if step in (0, 4, 7):
            rested.evaluated(args, step < 7)
        else:
            rested.live.before_rest(step, step < 7, step < 6)
            found += [layout(velocity).cpu() for velocity in rested.step(args, step < 7)]
    return found


@torch.no_grad()
def test_rested_steps_are_replayed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a CUDA graph, which uses the tensors of the recording and not those of later calls."""
    made, replays = network(), []
    plain = solved(made)

    def record(_: Any, function: Any) -> tuple[list[Tensor], Any]:
        places = kept_places(function)
        results = function()

        def again() -> None:
            assert kept_places(function) == places
            replays.append(places)
            for result, value in zip(results, function(), strict=True):
                result.copy_(value)

        return results, again

    monkeypatch.setattr("fast_sam3d.sampling.live.recorded", record)
    monkeypatch.setattr(LiveLayout, "_records", lambda self, x: True)
    for got, expected in zip(solved(made), plain, strict=True):
        assert torch.allclose(got, expected, atol=1e-6)
    assert len(replays) == 5 - 1 + 2 - 1  # all but the first of guided and of other steps

    def fails(_: Any, function: Any) -> Any:
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr("fast_sam3d.sampling.live.recorded", fails)
    for got, expected in zip(solved(made), plain, strict=True):
        assert torch.equal(got, expected)


def kept_places(function: Any) -> list[int]:
    """Addresses of what a recording uses beside its arguments."""
    of = function.func.__self__
    tensors = [*of._keys.values(), *of._values.values(), *of._constants.values(), of._context]
    return [tensor.data_ptr() for tensor in tensors]


@pytest.mark.gpu
@torch.no_grad()
def test_rested_steps_are_replayed_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    made = network(PUBLISHED)
    plain = solved(made)
    with caplog.at_level("INFO", "fast_sam3d"):
        for dtype, close in ((None, 1e-3), (torch.float16, 2e-2)):
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                found = solved(made.to("cuda"), "cuda")
            for got, expected in zip(found, plain, strict=True):
                assert (got - expected).abs().max() < close * expected.abs().max()
    assert "not recorded" not in caplog.text


def test_the_unconditional_keys_go_with_the_end_of_guidance() -> None:
    made = network()
    args, rested = inputs(made), Rested(made)
    own = rested.evaluated(args)
    both = sum(kept.numel() for kept in rested.live._keys.values())
    same(rested.rested(args, guided=False)[0], own[0])
    assert sum(kept.numel() for kept in rested.live._keys.values()) == both
    same(rested.rested(args, guided=False, again=False)[0], own[0])
    assert sum(kept.numel() for kept in rested.live._keys.values()) * 2 == both
    tokens = 8 + 4  # of the patched shape, and of the layout
    assert rested.live.bytes == 2 * 2 * 3 * tokens * 24 * 4  # keys and values, branches, blocks
    rested.live.before_evaluation(False, False)
    assert not rested.live.ready and not rested.live._keys


def method(layout: dict[str, Any], **parts: Any) -> dict[str, Any]:
    predict = {"shape": {"name": "hold"}, "layout": layout}
    return {"ss": {"when": {"name": "stride", "stride": 2}, "predict": predict, **parts}}


LIVE: dict[str, Any] = {"name": "live"}


def structure(pipeline: Any) -> dict[str, Tensor]:
    """Shape, pose and voxels."""
    return tensors(pipeline.run(rgba(), None, seed=0, stage1_only=True))


def ran(pipeline: Any, config: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Result, and the record of the sparse structure's solve."""
    with fast_sam3d.accelerated(pipeline, config) as handle:
        result = structure(pipeline)
    return result, handle.report.solves[0]


def off(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The greatest difference of the pose."""
    return max(float((a[name] - b[name]).abs().max()) for name in ("rotation", "translation", "scale"))


def test_on_a_pipeline_the_pose_is_closer_and_the_shape_the_same() -> None:
    pipeline = random_mini()
    plain = structure(pipeline)
    held, _ = ran(pipeline, method({"name": "hold"}))
    for savings in ({}, {"exact": {"context": True}}):
        live, record = ran(pipeline, method(LIVE) | savings)
        assert off(live, plain) < off(held, plain) / 4
        assert torch.equal(live["shape"], held["shape"]) or savings
    assert differing(structure(pipeline), plain) == set()
    rested = len(record.steps) - len(record.evaluated)
    assert record.layout_evaluations == rested > 0
    assert record.calls + record.saved == 8 + 7  # none of them among the network's calls
    assert record.to_dict()["layout_bytes"] == 2 * 2 * 2 * (64 + 4) * 24 * 4
    assert record.fallbacks == 0


@pytest.mark.parametrize("guide", ["reuse", "adaptive"])
def test_with_methods_that_save_unconditional_calls(guide: str) -> None:
    pipeline, settings = random_mini(), {"reuse": {"interval": 2, "warmup": 1}, "adaptive": {"threshold": -1.0}}
    config = method(LIVE, guide={"name": guide, **settings[guide]})
    live, record = ran(pipeline, config)
    held, _ = ran(pipeline, config | method({"name": "hold"}, guide=config["ss"]["guide"]))
    always, _ = ran(pipeline, {"ss": {"guide": config["ss"]["guide"]}})
    assert record.layout_evaluations and record.fallbacks == 0
    assert off(live, always) < off(held, always)


@pytest.mark.parametrize("interval", [(200.0, 500.0), None])
def test_guidance_that_begins_late_or_never(interval: Any) -> None:
    pipeline = random_mini()
    pipeline.generator("ss").guidance.interval = interval
    plain = structure(pipeline)
    live, record = ran(pipeline, method(LIVE))
    held, _ = ran(pipeline, method({"name": "hold"}))
    assert record.layout_evaluations and record.fallbacks == 0
    assert off(live, plain) < off(held, plain) or interval  # rested steps at its begin are as unguided as their node


def test_a_batch_is_its_objects_one_by_one() -> None:
    pipeline, objects = random_mini(), [(picture()[0], picture()[1], None), (picture()[0][::-1], picture()[1], None)]
    with fast_sam3d.accelerated(pipeline, method(LIVE)) as handle:
        together = pipeline.sample_structures(objects, seed=0)
        alone = [pipeline.sample_structures([one], seed=0)[0] for one in objects]
    assert all(solve.layout_evaluations for solve in handle.report.solves)
    for one, other in zip(together, alone, strict=True):
        for name in LAYOUT_CHANNELS:
            assert torch.allclose(one.latents[name], other.latents[name], atol=1e-4)
    assert not torch.allclose(alone[0].latents["scale"], alone[1].latents["scale"], atol=1e-3)


def unprotected(pipeline: Any) -> None:
    pipeline.generator("ss").guidance.backbone.blocks[1].self_attn.protect_modality_list = []


def protecting_both(pipeline: Any) -> None:
    pipeline.generator("ss").guidance.backbone.blocks[1].self_attn.protect_modality_list = ["shape", "layout"]


def unknown(pipeline: Any) -> None:
    class Other(type(pipeline.generator("ss").guidance.backbone.blocks[0].self_attn)):  # type: ignore[misc]
        pass

    pipeline.generator("ss").guidance.backbone.blocks[0].self_attn.__class__ = Other


def conditioned(pipeline: Any) -> None:
    pipeline.generator("ss").guidance.backbone.force_zeros_cond = False


def wrapped(pipeline: Any) -> None:
    guidance = pipeline.generator("ss").guidance
    vars(guidance)["inner_forward"] = guidance.inner_forward


def unlike(pipeline: Any) -> None:
    pipeline.generator("ss").guidance.unconditional_handling = "zeros"


REFUSED = {
    unprotected: "protects nothing",
    protecting_both: "protects shape, layout, and not the shape alone",
    unknown: "Other, which is unknown",
    conditioned: "force_zeros_cond",
    wrapped: "compiled or wrapped",
    unlike: "unconditional_handling='zeros'",
}


@pytest.mark.parametrize("change", REFUSED)
def test_it_is_refused_with_the_reason_or_predicted(change: Any, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = random_mini()
    change(pipeline)
    before = snapshot(pipeline)
    with pytest.raises(ConfigError, match=f"ss.predict is live.*{REFUSED[change]}.*fallback"):
        fast_sam3d.accelerate(pipeline, method(LIVE))
    assert same_vars(before, snapshot(pipeline))
    with caplog.at_level("INFO", "fast_sam3d"):
        live, record = ran(pipeline, method({**LIVE, "fallback": "hold"}))
    assert REFUSED[change] in caplog.text and record.layout_evaluations == 0
    held, _ = ran(pipeline, method({"name": "hold"}))
    assert differing(live, held) == set()


@pytest.mark.parametrize("size", [1.0, 1e-6, 0.0])
def test_norms_of_the_stock_network_divide_by_the_length_however_small(size: float) -> None:
    """Its class has no attribute `floor`."""
    q, k = (SimpleNamespace(gamma=torch.rand(2, 8)) for _ in range(2))
    x = torch.randn(1, 3, 2, 2, 8, generator=torch.Generator().manual_seed(0)) * size
    expected = torch.nn.functional.normalize(x, dim=-1) * torch.stack([q.gamma, k.gamma]) * 8**0.5
    torch.testing.assert_close(_norm(q, k)(x), expected)


def test_it_is_for_the_layout_alone() -> None:
    for predict in (LIVE, {"shape": LIVE, "layout": LIVE}):
        with pytest.raises(ConfigError, match="predicts no shape"):
            fast_sam3d.accelerate(random_mini(), {"ss": {"predict": predict}})
    with pytest.raises(ConfigError, match="predicts no feats"):
        fast_sam3d.accelerate(random_mini(), {"slat": {"predict": LIVE}})
