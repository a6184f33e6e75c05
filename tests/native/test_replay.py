"""Runs of the native pipeline that stop between stages and are repeated, alone and for the objects of a scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.model.common import DECODERS
from fast_sam3d.native.plans import PLANS, Plan, smallest
from fast_sam3d.native.replay import ORDER, Replay, Suspended
from fast_sam3d.native.residency import Residency
from fast_sam3d.run.memory import DoesNotFit
from fast_sam3d.run.object import RunSettings, run_object_fitting
from fast_sam3d.scene import run_scene
from tests.beds import differing
from tests.native.fake_parts import FakePart
from tests.native.tiny import random_native

CPU = torch.device("cpu")
SETTINGS = RunSettings(3, 2, 2, ("mesh", "gaussian"), refine_pose=False)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def mask(left: int = 10) -> np.ndarray:
    covered = np.zeros((48, 64), bool)
    covered[8:40, left : left + 24] = True
    return covered


@pytest.fixture(scope="module")
def plain() -> Any:
    """With all weights on the device."""
    return random_native()


def with_plan(plain: Any, plan: Plan) -> tuple[Any, dict[str, FakePart]]:
    """The same pipeline, whose weights are loaded as a plan says."""
    import copy

    pipeline = copy.deepcopy(plain)
    modules = {**pipeline.models, **pipeline.condition_embedders}
    parts = {
        name: FakePart(name, module, {key: value.clone() for key, value in module.state_dict().items()})
        for name, module in modules.items()
    }
    for part in parts.values():
        part.release()
    pipeline.residency = Residency(parts, plan, CPU)
    return pipeline, parts


def run(pipeline: Any, left: int = 10, **options: Any) -> Any:
    found, _ = run_object_fitting(
        pipeline, picture(), mask(left), settings=SETTINGS, use=lambda each: each, free=lambda: None, **options
    )
    return found


def tensors(result: Any) -> dict[str, Tensor]:
    """Of a result, those of its mesh and gaussians included."""
    found = {key: value for key, value in result.items() if isinstance(value, Tensor)}
    if "mesh" in result:
        found |= {key: getattr(result["mesh"][0], key) for key in ("vertices", "faces", "vertex_attrs")}
    return {**found, "xyz": result["gaussian"][0].get_xyz, "opacity": result["gaussian"][0].get_opacity}


def same(a: Any, b: Any) -> bool:
    return differing(tensors(a), tensors(b)) == set()


@pytest.fixture(scope="module")
def want(plain: Any) -> Any:
    """The run of the object without a plan."""
    return run(plain)


@pytest.mark.parametrize("name", [*PLANS])
def test_every_plan_gives_the_same_object(plain: Any, want: Any, name: str) -> None:
    pipeline, parts = with_plan(plain, PLANS[name])
    assert same(run(pipeline).result, want.result)
    stay = {part for part in parts if not parts[part].on_meta}
    assert stay <= PLANS[name].resident | {"slat_decoder_mesh", "slat_decoder_gs"}


def test_the_report_has_plan_and_peaks(plain: Any, want: Any) -> None:
    pipeline, _ = with_plan(plain, smallest())
    report = run(pipeline).report
    memory = report.to_dict()["memory"]
    assert memory["plan"] == "8GB" and memory["did_not_fit"] == []
    assert {"ss_generator", "slat_generator", "slat_decoder_mesh"} <= set(memory["stages"])
    assert all(stage["peak_bytes"] > 0 for stage in memory["stages"].values())
    assert any(line.startswith("native runtime, memory plan 8GB: peak ") for line in report.footer())
    assert "memory" not in want.report.to_dict()


def failing(module: nn.Module, times: int) -> list[int]:
    """Make a network run out of memory a number of times; returns a list that grows with its calls."""
    forward, calls = module.forward, []

    def run_out(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise MemoryError("no room")
        return forward(*args, **kwargs)

    module.forward = run_out  # type: ignore[method-assign]
    return calls


def test_out_of_memory_repeats_only_the_stage_that_failed(plain: Any, want: Any) -> None:
    pipeline, _ = with_plan(plain, PLANS["12GB"])
    solves = failing(pipeline.models["ss_generator"], 0)
    meshes = failing(pipeline.models["slat_decoder_mesh"], 2)
    failures: list[str] = []
    found = run(pipeline, failures=failures)
    assert same(found.result, want.result)
    assert len(solves) == 1 and len(meshes) == 3
    assert failures == ["mesh, gaussian: no room", "mesh, gaussian again, alone: no room"]
    memory = found.report.to_dict()["memory"]
    assert (memory["plan"], memory["did_not_fit"]) == ("8GB", ["12GB"])
    assert [solve.complete for solve in found.report.solves] == [True, True]
    assert pipeline.residency.plan is smallest()


def test_fewer_formats_come_after_the_smallest_plan(plain: Any) -> None:
    pipeline, _ = with_plan(plain, PLANS["16GB"])
    failing(pipeline.models["slat_decoder_mesh"], 9)
    failures: list[str] = []
    assert run(pipeline, failures=failures).formats == ("gaussian",)
    assert [line.split(":")[0] for line in failures] == [
        "mesh, gaussian", "mesh, gaussian again, alone", "mesh, gaussian under memory plan 12GB",
        "mesh, gaussian under memory plan 8GB",
    ]  # fmt: skip
    failing(pipeline.models["ss_decoder"], 9)
    with pytest.raises(DoesNotFit):
        run(pipeline)


def test_a_run_stops_before_a_part_and_goes_on_from_there(plain: Any) -> None:
    pipeline, parts = with_plan(plain, smallest())
    replay = Replay(CPU)
    options = {"seed": 3, "stage1_inference_steps": 1, "stage2_inference_steps": 1, "decode_formats": ["gaussian"]}
    want = plain.run(picture(), mask(), **options)
    for number, part in enumerate(ORDER[1:], 1):
        replay.until = ORDER[:number]
        torch.manual_seed(number)  # the state of the generator is that of the run
        with pipeline.remembering(replay), pytest.raises(Suspended) as stopped:
            pipeline.run(picture(), mask(), **options)
        assert stopped.value.part == part and part not in replay
    replay.until = None
    with pipeline.remembering(replay):
        found = pipeline.run(picture(), mask(), **options)
    assert same(found, want)
    assert {name: len(part.reads) for name, part in parts.items() if part.reads} == dict.fromkeys(
        [*ORDER[1:], "slat_decoder_gs"], 1
    )


@pytest.mark.parametrize("methods", [None, "default", "fast_sam3d"])
def test_a_scene_in_stages_equals_one_object_after_another(plain: Any, methods: str | None) -> None:
    pipeline, parts = with_plan(plain, smallest())
    masks = [mask(4), mask(30)]
    preset = methods or "off"
    formats = SETTINGS.formats if methods == "fast_sam3d" else ("gaussian",)
    options: dict[str, Any] = {"seed": 3, "ss_steps": 4, "slat_steps": 4, "layout": False, "formats": formats}
    with fast_sam3d.accelerated(plain, preset=preset):
        want = list(run_scene(plain, picture(), masks, **options))
    with fast_sam3d.accelerated(pipeline, preset=preset):
        found = list(run_scene(pipeline, picture(), masks, **options))
    assert [item.error for item in found] == [None] * 2 and [item.name for item in found] == ["0", "1"]
    for one, other in zip(found, want, strict=True):
        assert one.result is not None and other.result is not None and one.report and other.report
        assert same(one.result, other.result)
        for report in (one.report, other.report):
            assert len(report.solves) == 2
        assert [s.to_dict()["evaluated"] for s in one.report.solves] == [
            s.to_dict()["evaluated"] for s in other.report.solves
        ]
        assert one.report.aggregations == other.report.aggregations
    assert {name: len(part.reads) for name, part in parts.items() if part.reads} == dict.fromkeys(
        [*ORDER[1:], *(DECODERS[name] for name in formats)], 1
    )


def test_a_failing_object_does_not_stop_the_others_of_its_group(plain: Any) -> None:
    pipeline, _ = with_plan(plain, smallest())
    forward, calls = pipeline.models["slat_generator"].forward, []

    def fail_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("a bug")
        return forward(*args, **kwargs)

    pipeline.models["slat_generator"].forward = fail_second
    masks = {"full": np.ones((48, 64), bool), **{str(left): mask(left) for left in (4, 12, 30)}}
    options: dict[str, Any] = {"seed": 3, "ss_steps": 2, "slat_steps": 2, "layout": False, "formats": ("gaussian",)}
    found = list(run_scene(pipeline, picture(), masks, **options))
    assert [item.name for item in found] == ["full", "4", "12", "30"]
    assert [None if item.error is None else str(item.error) for item in found] == [
        "mask full is full: mark the object in it", None, "a bug", None,
    ]  # fmt: skip


def test_finished_objects_are_handed_out_before_the_next_is_decoded(plain: Any) -> None:
    pipeline, _ = with_plan(plain, smallest())
    decoded = failing(pipeline.models["slat_decoder_gs"], 0)
    options: dict[str, Any] = {"seed": 3, "ss_steps": 2, "slat_steps": 2, "layout": False, "formats": ("gaussian",)}
    items = run_scene(pipeline, picture(), [mask(left) for left in (4, 12, 30)], **options)
    for number, _ in enumerate(items, 1):
        assert len(decoded) == number


def test_without_a_seed_and_with_resident_weights_objects_run_one_after_another(plain: Any) -> None:
    for plan, seed in ((smallest(), None), (PLANS["16GB"], 3)):
        pipeline, _ = with_plan(plain, plan)
        solves, order = [], []
        solves = failing(pipeline.models["ss_generator"], 0)
        options: dict[str, Any] = {"ss_steps": 1, "slat_steps": 1, "layout": False, "formats": ("gaussian",)}
        for number, _ in enumerate(run_scene(pipeline, picture(), [mask(4), mask(12)], seed=seed, **options), 1):
            order.append(len(solves) == number)
        assert order == [True, True]
