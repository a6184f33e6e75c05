"""What every acceleration must keep, on the embedded pipeline's own classes with small random weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.mini.pipeline import MiniPipeline
from fast_sam3d.report import observe
from tests.fakes import same_vars, snapshot
from tests.minis import STEPS, picture, random_mini


def method(stage: str, stride: int, **predict: Any) -> dict[str, Any]:
    return {stage: {"when": {"name": "stride", "stride": stride}, "predict": predict}}


def paper(beta: float = 0.5, stride: int = 3) -> dict[str, Any]:
    return method("ss", stride, shape={"name": "taylor", "order": 1}, layout={"name": "anchored", "beta": beta})


METHODS: dict[str, dict[str, Any]] = {
    "paper": paper(),
    "hold": method("ss", 2, all={"name": "hold"}),
    "quadratic": method("ss", 3, all={"name": "taylor", "order": 2}),
    "slat": method("slat", 3, name="taylor"),
    "both": {**paper(), **method("slat", 2, name="hold")},
    "carved": {"slat": {"when": {"name": "stride"}, "where": {"name": "saliency", "keep": 0.25, "warmup": 1}}},
    "budget": {
        "slat": {
            "when": {"name": "budget", "threshold": 0.5},
            "where": {"name": "random", "keep": 0.5, "warmup": 1},
            "predict": {"name": "offset"},
        }
    },
}
LIMITS: dict[str, dict[str, Any]] = {
    "ss stride 1": paper(stride=1),
    "slat stride 1": method("slat", 1, name="taylor"),
    "always": {"ss": {"when": {"name": "always"}}, "slat": {"when": {"name": "always"}}},
    "keep 1": {"slat": {"where": {"name": "saliency", "keep": 1.0}}},
}
LAYOUT = {"6drotation_normalized", "scale", "translation", "translation_scale", "rotation"}


@pytest.fixture(scope="module")
def shared() -> MiniPipeline:
    """One pipeline for the tests that bring it back; the fixture below checks that they do."""
    return random_mini()


@pytest.fixture
def pipeline(shared: MiniPipeline) -> Iterator[MiniPipeline]:
    """A pipeline that must come back as it was: vars() and state_dict keys."""
    before, keys = snapshot(shared), list(shared.models.state_dict())
    yield shared
    assert same_vars(before, snapshot(shared))
    assert list(shared.models.state_dict()) == keys


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """What a pipeline that was never patched gives."""
    return run(random_mini())


def run(pipeline: MiniPipeline, seed: int = 0, formats: tuple[str, ...] = ("gaussian",)) -> dict[str, Tensor]:
    """Every tensor of a result, by name."""
    result = pipeline.run(*picture(), seed=seed, decode_formats=formats)
    tensors = {name: value for name, value in result.items() if isinstance(value, Tensor)}
    if "mesh" in formats:
        mesh = result["mesh"][0]
        tensors |= {"vertices": mesh.vertices, "faces": mesh.faces, "vertex_attrs": mesh.vertex_attrs}
    gaussian = result["gaussian"][0]
    tensors |= {"xyz": gaussian.get_xyz, "opacity": gaussian.get_opacity, "colour": gaussian._features_dc}
    return {name: value.clone() for name, value in tensors.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name].nan_to_num(7.0), b[name].nan_to_num(7.0))}


def evaluated(report: fast_sam3d.Report) -> dict[str, int]:
    return {solve.stage: len(solve.evaluated) for solve in report.solves}


def test_the_random_pipeline_is_alive(plain: dict[str, Tensor]) -> None:
    """Or the tests below would compare constants."""
    assert 50 < len(plain["coords"]) < 1000
    assert differing(plain, run(random_mini(), seed=1)) >= LAYOUT - {"translation_scale"} | {"shape", "coords"}
    assert all(torch.isfinite(value).all() for name, value in plain.items() if not name.startswith("pointmap"))


@pytest.mark.parametrize("name", METHODS)
def test_removal_is_exact(name: str, pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    run(pipeline)
    random_state = torch.get_rng_state()
    handle = fast_sam3d.accelerate(pipeline, METHODS[name])
    assert torch.equal(random_state, torch.get_rng_state())
    accelerated = run(pipeline)
    handle.remove()
    assert differing(run(pipeline), plain) == set()
    assert torch.equal(random_state, torch.get_rng_state())
    assert differing(accelerated, plain) - LAYOUT  # it did something, and not to the pose alone
    assert handle.report.network_calls_saved > 0


@pytest.mark.parametrize("name", METHODS)
def test_calls_are_counted_as_they_happen(name: str, pipeline: MiniPipeline) -> None:
    counts = {"ss": 0, "slat": 0}
    hooks = [
        pipeline.models[f"{stage}_generator"].reverse_fn.backbone.register_forward_pre_hook(
            lambda module, args, stage=stage: counts.__setitem__(stage, counts[stage] + 1)
        )
        for stage in counts
    ]
    try:
        with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
            run(pipeline)
    finally:
        for hook in hooks:
            hook.remove()
    assert {solve.stage: solve.calls for solve in handle.report.solves} == counts
    totals = {solve.stage: solve.calls + solve.saved for solve in handle.report.solves}
    with observe(pipeline) as report:
        run(pipeline)
    assert {solve.stage: solve.calls for solve in report.solves} == totals


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_bit_identical(name: str, pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    with fast_sam3d.accelerated(pipeline, LIMITS[name]):
        assert differing(run(pipeline), plain) == set()


def test_observing_is_bit_identical(pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    with observe(pipeline) as report:
        assert differing(run(pipeline), plain) == set()
    assert evaluated(report) == {"ss": STEPS, "slat": STEPS}


def test_off_is_the_pipeline_itself(pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    before = snapshot(pipeline)
    fast_sam3d.accelerate(pipeline, preset="off")
    assert same_vars(before, snapshot(pipeline))
    assert differing(run(pipeline), plain) == set()


def test_meshes_too(pipeline: MiniPipeline) -> None:
    formats = ("mesh", "gaussian")
    plain = run(pipeline, formats=formats)
    with fast_sam3d.accelerated(pipeline, METHODS["both"]):
        assert differing(run(pipeline, formats=formats), plain) >= {"vertices", "faces"}
    assert differing(run(pipeline, formats=formats), plain) == set()


def test_beta_changes_layout_and_only_layout(pipeline: MiniPipeline) -> None:
    with fast_sam3d.accelerated(pipeline, paper(beta=0.2)):
        low = run(pipeline)
    with fast_sam3d.accelerated(pipeline, paper(beta=0.8)):
        high = run(pipeline)
    changed = differing(low, high)
    assert changed <= LAYOUT
    assert changed >= {"6drotation_normalized", "rotation", "translation"}


@pytest.mark.parametrize("name", METHODS)
def test_applying_twice_replaces(name: str, pipeline: MiniPipeline) -> None:
    with fast_sam3d.accelerated(pipeline, METHODS[name]):
        once = run(pipeline)
    fast_sam3d.accelerate(pipeline, METHODS["hold"])
    first = fast_sam3d.accelerate(pipeline, METHODS[name])
    second = fast_sam3d.accelerate(pipeline, METHODS[name])
    assert differing(run(pipeline), once) == set()
    assert len(first.report.solves) == 0
    assert len(second.report.solves) == 2
    first.remove()
    assert differing(run(pipeline), once) == set()
    second.remove()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_removal_in_any_order(order: tuple[int, ...], pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    managers: list[AbstractContextManager[Any]] = [
        observe(pipeline),
        fast_sam3d.accelerated(pipeline, METHODS["both"]),
        observe(pipeline),
    ]
    entered = [manager.__enter__() for manager in managers]
    run(pipeline)
    for index in order:
        managers[index].__exit__(None, None, None)
    assert differing(run(pipeline), plain) == set()
    reports = [entered[0], entered[1].report, entered[2]]
    assert [evaluated(report) for report in reports] == [{"ss": 4, "slat": 5}] * 3


class Stop(Exception):
    """Thrown into a run."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_an_abort_then_a_clean_run(name: str, stage: str, pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    backbone = pipeline.models[f"{stage}_generator"].reverse_fn.backbone
    with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
        want = run(pipeline)
        calls = 0

        def stop(module: Any, args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise Stop

        hook = backbone.register_forward_pre_hook(stop)
        with pytest.raises(Stop):
            run(pipeline, seed=3)
        hook.remove()
        assert handle.report.solves[-1].complete is False
        assert differing(run(pipeline), want) == set()
    assert differing(run(pipeline), plain) == set()


def test_two_pipelines_with_different_settings(pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    with fast_sam3d.accelerated(pipeline, METHODS["paper"]):
        want = run(pipeline)
    other, third = random_mini(), random_mini()
    with fast_sam3d.accelerated(other, METHODS["slat"]), fast_sam3d.accelerated(pipeline, METHODS["paper"]):
        ours, theirs, nobodys = run(pipeline), run(other), run(third)
    assert differing(ours, want) == set()
    assert torch.equal(theirs["shape"], plain["shape"])
    assert not torch.equal(theirs["xyz"], plain["xyz"])
    assert differing(nobodys, plain) == set()


@torch.no_grad()
def test_two_interleaved_solves(pipeline: MiniPipeline) -> None:
    generator = pipeline.models["ss_generator"]
    shapes = {name: (1, *shape) for name, shape in pipeline.config.ss_flow.leaf_shapes.items()}
    tokens = pipeline.config.ss_embedder.num_tokens
    conditions = [torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]

    def start(index: int) -> Iterator[Tensor]:
        """The states of one solve; the noise is drawn with the first."""
        torch.manual_seed(index)
        steps = generator.generate_iter(shapes, "cpu", conditions[index])
        first = next(steps)[1]["shape"]
        return itertools.chain([first], (x["shape"] for _, x, _ in steps))

    with fast_sam3d.accelerated(pipeline, METHODS["paper"]):
        alone = [list(start(index)) for index in (0, 1)]
        mixed = list(zip(start(0), start(1), strict=True))  # one step of each in turn
    assert len(mixed) == STEPS
    assert all(
        torch.equal(pair[index], state) for index in (0, 1) for pair, state in zip(mixed, alone[index], strict=True)
    )
    assert not torch.equal(alone[0][-1], alone[1][-1])


@pytest.mark.parametrize("name", METHODS)
def test_a_deep_copy_drives_its_own_weights(name: str, pipeline: MiniPipeline, plain: dict[str, Tensor]) -> None:
    with fast_sam3d.accelerated(pipeline, METHODS[name]) as handle:
        want = run(pipeline)
        twin = copy.deepcopy(pipeline)
        assert differing(run(twin), want) == set()
        with torch.no_grad():
            for stage in ("ss_generator", "slat_generator"):
                for parameter in twin.models[stage].parameters():
                    parameter.mul_(1.1)
        assert {"shape", "translation"} <= differing(run(twin), want)
        assert differing(run(pipeline), want) == set()
        assert len(handle.report.solves) == 4
    fast_sam3d.restore(twin)
    reference = random_mini()
    assert [list(attributes) for attributes in snapshot(twin).values()] == [
        list(attributes) for attributes in snapshot(reference).values()
    ]


def test_distilled_and_short_runs() -> None:
    pipeline = random_mini()  # its own: a distilled run leaves settings on the samplers, as in the stock pipeline
    with fast_sam3d.accelerated(pipeline, METHODS["both"]) as handle:
        for steps in (1, 2, 3):
            pipeline.run(
                *picture(),
                seed=0,
                stage1_inference_steps=steps,
                stage2_inference_steps=steps,
                use_stage1_distillation=True,
                use_stage2_distillation=True,
                decode_formats=(),
            )
    assert [(solve.steps_planned, solve.calls, solve.saved) for solve in handle.report.solves] == [
        (steps, steps, 0) for steps in (1, 1, 2, 2, 3, 3)
    ]


def test_half_precision() -> None:
    half = random_mini()
    half.dtype = half.shape_model_dtype = torch.bfloat16
    want = run(half)
    with fast_sam3d.accelerated(half, METHODS["both"]) as handle:
        got = run(half)
    assert got["shape"].dtype == want["shape"].dtype
    assert evaluated(handle.report) == {"ss": 4, "slat": 5}
    assert differing(run(half), want) == set()


def test_a_compiled_stage_is_not_compiled_again(plain: dict[str, Tensor]) -> None:
    """The stock pipeline's compile_model=True replaces `reverse_fn.inner_forward` in this way."""
    pipeline, compiled = random_mini(), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    guidance = pipeline.models["ss_generator"].reverse_fn
    guidance.inner_forward = torch.compile(guidance.inner_forward, backend=count)
    assert differing(run(pipeline), plain) == set()
    graphs = len(compiled)
    with fast_sam3d.accelerated(pipeline, METHODS["paper"]) as handle:
        run(pipeline)
        run(pipeline, seed=1)
    assert handle.report.network_calls_saved > 0
    assert differing(run(pipeline), plain) == set()
    assert len(compiled) == graphs > 0
