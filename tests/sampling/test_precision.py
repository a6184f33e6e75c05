"""Precision: every method at the published sizes, under autocast, against itself in float32.

The network hands out the same values to the bit in both; so what differs is the rounding of a method's results to the
network's type, and what a method computes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.config.methods import build_methods
from fast_sam3d.model.flow import mixed
from fast_sam3d.model.solver import moved
from fast_sam3d.report import observe
from fast_sam3d.sampling.guide.reuse import Reusing
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.method import PARTS, StageMethod
from fast_sam3d.sampling.predict.adams_bashforth import AdamsBashforth
from fast_sam3d.sampling.predict.taylor import Taylor
from fast_sam3d.sampling.step import Evaluation, LeafEvaluation
from fast_sam3d.sampling.when.stride import Stride
from fast_sam3d.sampling.where.saliency import Saliency
from fast_sam3d.telemetry import SolveRecord
from tests.sampling.published import Precision, Published, accelerated, decisions

CLOSE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest value: twice the rounding of one value."""

VARIANTS = {
    "float16": Precision(),
    "float16 large": Precision(size=300.0),
    "bfloat16": Precision(torch.bfloat16),
}


def of_files() -> dict[str, dict[str, Any]]:
    """The method of each file of configs/ss and configs/slat."""
    names = [f"{stage}={name}" for stage in ("ss", "slat") for name in group_options()[stage] if name != "off"]
    return {name: {name.split("=")[0]: compose([name])[0][name.split("=")[0]]} for name in names}


def parts(config: Mapping[str, Any]) -> dict[tuple[str, str, str], Any]:
    """Settings by (stage, question, class)."""
    found = {}
    for stage, method in build_methods(config).items():
        assert isinstance(method, StageMethod)
        for question, given in method.settings().items():
            for part in given.values() if question == "predict" else [given]:
                found[stage, question, part["name"]] = part
    return found


def with_rest(files: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """And one method for each class of a question in a stage where no file has it, the other parts plain."""
    known = {key: part for config in files.values() for key, part in parts(config).items()}
    anywhere = {(question, name): part for (_, question, name), part in known.items()}
    methods = dict(files)
    for question, classes in PARTS.items():
        for name, kind in classes.items():
            for stage, misfit in (("ss", "needs_tokens"), ("slat", "needs_decoder")):
                unfit = getattr(kind, misfit, False) or getattr(kind, "only", None)
                if (stage, question, name) not in known and not unfit:
                    part = anywhere.get((question, name), {"name": name})
                    plain = {"when": {"name": "stride"}, "predict": {"name": "taylor"}}
                    methods[f"{stage} {question}={name}"] = {stage: {**plain, question: part}}
    return methods


METHODS = with_rest(of_files())


@functools.cache
def solved(name: str, precision: Precision) -> tuple[Tensor, SolveRecord, set[torch.dtype]]:
    """The latent, the record, and the types of the velocities that the solver was given."""
    (stage,) = METHODS[name]
    with accelerated(precision, METHODS[name]) as (pipeline, report):
        latent = pipeline.run(stage)
    return latent, report.solves[0], pipeline.solvers[stage].dtypes


def check(name: str, precision: Precision, close: float) -> None:
    """That a method gives under autocast what it gives in float32."""
    reference = replace(precision, wide=True, state=torch.float32)
    expected, decided, _ = solved(name, reference)
    got, record, dtypes = solved(name, precision)
    assert dtypes == {precision.half}
    assert torch.isfinite(got).all() and torch.isfinite(expected).all()
    assert record.finite is True
    off = (got - expected).abs().amax(1) / expected.abs().max()
    by_state = METHODS[name].get("slat", {}).get("where", {}).get("name") == "tome"
    # tome ranks thousands of cells by their state; where two are about equal, its last bits decide.
    assert decisions(record, tokens=not by_state) == decisions(decided, tokens=not by_state)
    assert float((off > close).float().mean()) <= (0.01 if by_state else 0.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_under_autocast_is_that_in_float32(name: str, variant: str) -> None:
    precision = VARIANTS[variant]
    check(name, precision, CLOSE[precision.half])


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name, config in METHODS.items() if "slat" in config])
def test_the_same_run_twice_on_a_gpu_is_the_same(name: str) -> None:
    """Also where tokens are chosen by sums over their cells."""
    results = []
    for _ in range(2):
        with accelerated(Precision(device="cuda"), METHODS[name]) as (pipeline, _report):
            results.append(pipeline.run("slat"))
    assert torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_under_autocast_is_that_in_float32_on_a_gpu(name: str, variant: str) -> None:
    precision = replace(VARIANTS[variant], device="cuda")
    check(name, precision, CLOSE[precision.half])


def test_every_part_gets_float32_outside_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Solve` and `GuidedCalls` see to that for every class, whatever it computes."""
    seen: set[str] = set()

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.add(name)
            assert not torch.is_autocast_enabled("cpu")
            assert {x.dtype for x in floats([args, kwargs])} <= {torch.float32}
            result = function(*args, **kwargs)
            return watched(f"{name}()", result) if callable(result) else result

        return call

    def floats(thing: Any) -> list[Tensor]:
        if isinstance(thing, Tensor):
            return [thing] if thing.is_floating_point() else []
        if isinstance(thing, LeafEvaluation | Evaluation):
            return floats([thing.x, thing.v])
        if isinstance(thing, Mapping):
            thing = thing.values()
        elif not isinstance(thing, list | tuple | History):
            return []
        return [x for each in thing for x in floats(each)]

    for kind, method in (
        (Saliency, "start"), (Taylor, "__call__"), (AdamsBashforth, "over"),
        (Reusing, "stand_in"), (Reusing, "learn"),
    ):  # fmt: skip
        monkeypatch.setattr(kind, method, watched(f"{kind.__name__}.{method}", vars(kind)[method]))
    start = Stride.start
    monkeypatch.setattr(Stride, "start", lambda *args: watched("Stride.start()", start(*args)))
    plain = {"when": {"name": "stride"}, "guide": {"name": "reuse"}}
    slat = {**plain, "where": {"name": "saliency"}, "predict": {"name": "taylor"}}
    ss = {**plain, "predict": {"shape": {"name": "adams_bashforth"}, "layout": {"name": "taylor"}}}
    with accelerated(Precision(), {"ss": ss, "slat": slat}) as (pipeline, _):
        pipeline.run("ss")
        pipeline.run("slat")
    assert seen == {
        "Stride.start()", "Saliency.start", "Saliency.start()", "Taylor.__call__",
        "AdamsBashforth.over", "Reusing.stand_in", "Reusing.learn",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ss=fast_sam3d", "slat=multistep", "slat=fast_sam3d", "slat=meancache"])
def test_a_state_in_float16(name: str) -> None:
    """It is rounded at every step, by the solver."""
    check(name, Precision(state=torch.float16), 5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_an_infinite_velocity_is_reported(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """From the middle of the solve on, the network gives one infinite value."""
    (stage,) = METHODS[name]
    with accelerated(Precision(), METHODS[name]) as (pipeline, report):
        pipeline.models[f"{stage}_generator"].reverse_fn.backbone.broken_from = 400.0
        latent = pipeline.run(stage)
    assert not torch.isfinite(latent).all()
    assert report.solves[0].finite is False
    message = f"{stage}: the sampled latents are not finite"
    assert message in caplog.text
    assert any(message in remark for remark in report.remarks())


def test_the_network_of_an_observed_solve_is_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Published(Precision())
    with observe(pipeline) as report:
        pipeline.run("slat")
        assert report.solves[0].finite is True and not caplog.text
        pipeline.models["slat_generator"].reverse_fn.backbone.broken_from = 900.0
        pipeline.run("slat")
    assert report.solves[1].finite is False
    assert "slat: the sampled latents are not finite" in caplog.text
    assert (report.solves[0].syncs, report.solves[1].syncs) == (1, 1)


@pytest.mark.parametrize("half", CLOSE)
def test_guidance_is_mixed_in_float32(half: torch.dtype) -> None:
    """With strength 7 two rounded products would be off by 15 roundings, and 9,000 would overflow."""
    generator = torch.Generator().manual_seed(0)
    c = (9000 + 100 * torch.randn(5000, generator=generator)).to(half)
    u = (c.float() + 10 * torch.randn(5000, generator=generator)).to(half)
    got = mixed(7.0, c, u)
    exact = 8 * c.double() - 7 * u.double()
    assert got.dtype == half
    assert float((got.double() - exact).abs().max() / exact.abs().max()) <= torch.finfo(half).eps / 2


@pytest.mark.parametrize("half", CLOSE)
def test_a_step_is_taken_in_float32(half: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(5000, generator=generator) for _ in range(2))
    got = moved(x, v.to(half), 0.3)
    assert got.dtype == torch.float32
    assert torch.equal(got, x + v.to(half).float() * 0.3)
    assert moved(x.to(half), v.to(half), 0.3).dtype == half
    assert torch.equal(moved(x, v, 0.3), x + v * 0.3)
