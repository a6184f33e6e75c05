"""Every method and every saving on a device that is neither the host nor torch's default: `tests.devices` watches."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.exact import Exact, attention, passes, subdivision
from fast_sam3d.sampling.method import PARTS
from fast_sam3d.telemetry import report as telemetry
from tests.contract import COVERING, REST, classes_of, merging
from tests.devices import DEVICE, Accelerator, OnDevice, moved, ours, place
from tests.exact import test_attention, test_extraction, test_subdivision
from tests.fakes import SS_SHAPES, FakePipeline
from tests.geometry import test_surface_cubes
from tests.minis import aim_at_few_voxels, random_mini, rgba

STEPS = 16  # so that dynamic modes find four equally spaced evaluations
SHAPES = {**SS_SHAPES, "shape": (1, 8, 4)}
SAMPLING = {name: config for name, config in {**COVERING, **REST}.items() if config.keys() & {"ss", "slat"}}
METHODS_PAGE = Path(__file__).parent.parent / "docs/methods.md"


class Logits(nn.Module):
    """A decoder of structures, [1, 4, 2, 2, 2] -> [1, 1, 8, 8, 8]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)


class Small(FakePipeline):
    """A pipeline of a few numbers on a device, with a structure that can be decoded and voxels in blocks."""

    def __init__(self, device: torch.device) -> None:
        with torch.device("cpu"):
            super().__init__(STEPS)
        self.device = device
        self.models["ss_decoder"] = Logits()
        moved(self.models) if device == DEVICE else self.models.to(device)

    def sample_sparse_structure(self, cond: Tensor) -> dict[str, Any]:
        result = self.models["ss_generator"](SHAPES, self.device, cond)
        latent = result["shape"].transpose(1, 2).reshape(1, 4, 2, 2, 2)
        return {**result, "logits": self.models["ss_decoder"](latent), "downsample_factor": 1}

    def sample_slat(self, cond: Tensor) -> Tensor:
        coords = torch.argwhere(torch.ones(1, 6, 4, 4, device="cpu")).int().numpy()
        return self.models["slat_generator"]((1, len(coords), 8), self.device, cond, coords)

    def go(self) -> dict[str, Tensor]:
        return self.run(torch.linspace(0, 1, 7, device="cpu").to(self.device), seed=0)


@pytest.mark.parametrize("name", SAMPLING)
def test_methods_run_on_another_device_and_report_each_wait(name: str) -> None:
    accelerator, counts = Accelerator(), {"ss": [], "slat": []}

    def clock() -> None:
        accelerator.syncs.append("a clock")

    with accelerator.on(default=True), mock.patch.object(telemetry, "_synchronize", clock):
        pipeline = Small(DEVICE)
        with fast_sam3d.accelerated(pipeline, SAMPLING[name]) as handle:
            assert ours(accelerator.syncs) == []
            handle.report.progress = lambda stage, *_: counts.get(stage, []).append(len(ours(accelerator.syncs)))
            pipeline.go()
    assert (accelerator.faults, ours(accelerator.silent)) == ([], [])
    for solve in handle.report.solves:
        assert solve.complete and not solve.fallbacks
        after = counts[solve.stage][1:]
        assert [b - a for a, b in pairwise(after)] == [step.syncs for step in solve.steps[1:]]
    waits = [line for line in ours(accelerator.syncs) if line != "a clock"]
    assert len(waits) == sum(solve.syncs for solve in handle.report.solves), waits
    # Noise comes from the host once for each leaf; nothing else of the sampler waits.
    assert len([line for line in accelerator.syncs if "model/" in line]) == len(SHAPES) + 1


def test_every_class_is_among_these_methods() -> None:
    used = set().union(*map(classes_of, SAMPLING.values()))
    assert used >= {(part, name) for part, classes in PARTS.items() for name in classes}


def test_the_page_of_methods_says_how_often_each_class_waits() -> None:
    """Measured on the host, where the same places are counted."""
    pipeline, measured = Small(torch.device("cpu")), {}
    for stage, part, settings in {(part, s["name"]): (stage, part, s) for stage, part, s in parts()}.values():
        one_leaf = {"shape": settings, "all": {"name": "hold"}}
        part_of = one_leaf if (stage, part) == ("ss", "predict") else settings
        config = {stage: {"when": {"name": "stride"}, "predict": {"name": "hold"}, part: part_of}}
        with fast_sam3d.accelerated(pipeline, config) as handle:
            pipeline.go()
        solve = next(solve for solve in handle.report.solves if solve.stage == stage)
        steps = [step.syncs for step in solve.steps]
        measured[part, settings["name"]] = (solve.syncs - sum(steps) - 1, max(steps))  # 1 at the end
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d) \| (\d) \|$", METHODS_PAGE.read_text(), re.M)
    said = {(part, name): (int(start), int(step)) for part, name, start, step in rows}
    assert said == {name: waits for name, waits in measured.items() if waits != (0, 0)}


def parts() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(stage, part, settings) of every class in the methods; predictors are those of the shape."""
    for config in SAMPLING.values():
        for stage, method in config.items():
            for part, settings in method.items():
                for one in [settings] if "name" in settings else settings.values():
                    if stage in ("ss", "slat") and not getattr(PARTS[part][one["name"]], "only", None):
                        yield stage, part, one


def subdivided() -> None:
    block, x = test_subdivision.Block(), test_subdivision.line()
    seam = subdivision.SubdivisionSeam(block)
    seam(x)
    assert list(seam.works.values()) == [True]


PARTS_ON_DEVICE = {
    "cubes": test_surface_cubes.test_half_precision_is_summed_in_single_precision,
    "ambiguous cubes": test_surface_cubes.test_an_ambiguous_cube_depends_on_its_neighbour,
    "edges": test_extraction.test_surface_edges_are_numbered_as_sorted_pairs,
    "attention": lambda: test_attention.test_single_sequence_equals_masked_attention(5, 7, torch.float32),
    "windows": lambda: attention._windows(*test_attention.tensors(1600, 1600, 1600), [400] * 4),
    "subdivision": subdivided,
}
"""Savings that act on the stock pipeline alone: their functions, and tests of those."""


@pytest.mark.parametrize("name", PARTS_ON_DEVICE)
def test_savings_for_the_stock_pipeline_run_on_another_device(name: str) -> None:
    accelerator = Accelerator()
    with accelerator.on(default=True):
        PARTS_ON_DEVICE[name]()
    assert [ours(lines) for lines in (accelerator.faults, accelerator.silent)] == [[], []]


def test_savings_run_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PLAIN", (*passes.PLAIN, OnDevice))
    everything, voxels = {**merging("decoder"), "exact": Exact().settings()}, merging("voxels")
    accelerator = Accelerator()
    pipeline = embedded()
    with accelerator.on(default=True):
        place(pipeline, DEVICE)
        with fast_sam3d.accelerated(pipeline, everything) as handle:
            few_steps(pipeline)
        with fast_sam3d.accelerated(pipeline, voxels) as second:
            few_steps(pipeline, stage1_only=True)
    assert (accelerator.faults, ours(accelerator.silent)) == ([], [])
    assert [record.factor for record in (*handle.report.aggregations, *second.report.aggregations)] == [2.0, 2.0]
    solves = [*handle.report.solves, *second.report.solves]
    waits = [line for line in ours(accelerator.syncs) if "sampling/" in line]
    assert len(waits) == sum(solve.syncs for solve in solves)
    assert solves[0].syncs > 1  # each cross-attention is checked once
    assert {solve.syncs for solve in solves[2:]} == {1}


def test_a_live_layout_runs_on_another_device_without_waits() -> None:
    predict = {"shape": {"name": "hold"}, "layout": {"name": "live"}}
    accelerator, pipeline = Accelerator(), embedded()
    with accelerator.on(default=True):
        place(pipeline, DEVICE)
        with fast_sam3d.accelerated(pipeline, {"ss": {"when": {"name": "stride"}, "predict": predict}}) as handle:
            pipeline.run(rgba(), None, seed=0, stage1_only=True)
    assert (accelerator.faults, ours(accelerator.silent)) == ([], [])
    (solve,) = handle.report.solves
    assert solve.layout_evaluations == 4 and solve.syncs == 1
    assert len([line for line in ours(accelerator.syncs) if "sampling/" in line or "adapters/" in line]) == 1


def embedded() -> Any:
    """The embedded pipeline in half precision, with about 30 voxels."""
    pipeline = random_mini()
    aim_at_few_voxels(pipeline, 30)
    pipeline.dtype = pipeline.shape_model_dtype = torch.bfloat16
    return pipeline


def few_steps(pipeline: Any, **options: Any) -> dict[str, Any]:
    steps = {"stage1_inference_steps": 2, "stage2_inference_steps": 2}
    return pipeline.run(rgba(), None, seed=0, decode_formats=["mesh"], **steps, **options)


FAULTS = {
    "product of integers": lambda x: x.long() @ x.long(),
    "float64": lambda x: x.double(),
    "generator of another device": lambda x: torch.randperm(3, generator=torch.Generator("cpu"), device=x.device),
    "tensors of two devices": lambda x: x + torch.ones(3, 3, device="cpu"),
    "no kernel for MPS": torch.linalg.eigvals,
}
WAITS = {
    "a value": (lambda x: float(x[0, 0]), 1),
    "a decision": (lambda x: bool(x.any()), 1),
    "a list": (lambda x: x.tolist(), 1),
    "equality": (lambda x: torch.equal(x, x), 1),
    "a mask": (lambda x: x[x > 0], 1),
    "a filled mask": (lambda x: x.__setitem__(x > 0, 0.0), 0),
    "rows": (lambda x: (x > 0).nonzero(), 1),
    "values": (lambda x: x.unique(), 1),
    "a constant": (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
    "a filled tensor": (lambda x: torch.full((2,), 3.0, device=x.device), 0),
    "columns of a list": (lambda x: x[:, [0, 2]], 1),
    "a scalar at places": (lambda x: x.__setitem__(x[0].long(), 1.0), 1),
    "arithmetic": (lambda x: (x * 2 + x.mean()).clamp(max=1.0).sort(), 0),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_tool_finds(kind: str) -> None:
    accelerator = Accelerator()
    with accelerator.on():
        FAULTS[kind](torch.ones(3, 3, device=DEVICE))
    assert any(line.startswith(kind) for line in accelerator.faults)


@pytest.mark.parametrize("kind", WAITS)
def test_the_tool_counts(kind: str) -> None:
    accelerator = Accelerator()
    call, count = WAITS[kind]
    with accelerator.on():
        call(torch.ones(3, 3, device=DEVICE))
    assert (len(accelerator.syncs), accelerator.faults) == (count, [])


def test_the_tool_finds_tensors_without_a_device() -> None:
    accelerator = Accelerator()
    with accelerator.on():
        torch.zeros(3, device="cpu")
        assert accelerator.silent == []
        torch.zeros(3)
    assert accelerator.silent == ["zeros at the test"]


# The same on real devices.

ON_MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's MPS")
REAL = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("mps", marks=ON_MPS)]


@contextmanager
def waits_of_cuda() -> Iterator[list[str]]:
    """Where the package's methods and savings synchronise in this block, beside the places that count it."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        place = warning.filename.rpartition("fast_sam3d/")[2]
        counted = place in ("sampling/syncs.py", "sampling/tokens.py")
        if "synchroniz" in str(warning.message) and place.startswith("sampling/") and not counted:
            found.append(f"{place}:{warning.lineno}")


@pytest.mark.parametrize("kind", REAL)
def test_methods_on_a_real_device(kind: str) -> None:
    device = torch.device(kind, 0)
    pipeline = Small(device)
    for name, config in SAMPLING.items():
        with fast_sam3d.accelerated(pipeline, config) as handle, device:
            pipeline.go()
            with waits_of_cuda() if kind == "cuda" else nullcontext([]) as waits:
                result = pipeline.go()
        assert waits == [], name
        assert all(torch.isfinite(leaf).all() for leaf in result.values() if isinstance(leaf, Tensor)), name
        assert not any(solve.fallbacks for solve in handle.report.solves), name


@pytest.mark.parametrize("kind", REAL)
def test_savings_on_a_real_device(kind: str) -> None:
    device, pipeline = torch.device(kind, 0), embedded()
    place(pipeline, device)
    for config in ({**merging("decoder"), "exact": Exact().settings()}, merging("voxels")):
        with fast_sam3d.accelerated(pipeline, config), device:
            few_steps(pipeline)
            result = few_steps(pipeline)  # reuses passes of the first
    assert all(torch.isfinite(result[name]).all() for name in ("shape", "rotation", "scale"))
