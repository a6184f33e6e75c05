"""Peaks of the memory plans, traced on the meta device at the published sizes, and with data at small ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fast_sam3d.bench.gpu.networks import SMALL
from fast_sam3d.bench.plan_peaks import RADIUS_20K, RADIUS_40K, plan_peaks, surface_peak, voxels_of
from fast_sam3d.native.plans import PLANS, PUBLISHED_BYTES, STAGES, expected_peaks

GIB = 2**30
DOCS = Path(__file__).parents[2] / "docs"
# The weights of one stage, which leave when the next begins, are smaller than what that computes.
NARROW = replace(SMALL, settings=replace(SMALL.settings, ss_flow=replace(SMALL.settings.ss_flow, model_channels=32)))
META, CPU = torch.device("meta"), torch.device("cpu")
LIMITS = {"8GB": (4, 5), "12GB": (8, 8), "16GB": (10, 10)}
"""GiB at 20,000 and 40,000 voxels."""


ALL = tuple(stage for stage in STAGES if stage != "depth")


def check(row: dict[str, Any], limit: float, stages: tuple[str, ...] = ALL) -> None:
    """No stage needs more than is allowed, nor than is expected, and the expectation is no more than a sixth above."""
    assert tuple(row["stages"]) == stages
    depth = PUBLISHED_BYTES["depth_model"][0] if "depth_model" in PLANS[row["plan"]].resident else 0
    for name, stage in row["stages"].items():
        assert stage["peak_bytes"] + depth <= limit * GIB, name
        assert stage["peak_bytes"] <= stage["expected_bytes"] <= 7 / 6 * stage["peak_bytes"] + (64 << 20), name


def test_sampling_40000_voxels_fits_the_smallest_plan() -> None:
    stages = ("ss", "slat")  # which have the largest peaks
    row = plan_peaks(PLANS["8GB"], RADIUS_40K, META, torch.float16, stages=stages)
    assert 39_000 < row["voxels"] < 42_000  # the pipeline has at most 42,000
    check(row, LIMITS["8GB"][1], stages)


@pytest.mark.parametrize("radii", [RADIUS_20K, RADIUS_40K])
@pytest.mark.parametrize("name", ["8GB", "12GB", "16GB"])
def test_objects_fit_their_plans(name: str, radii: tuple[float, ...]) -> None:
    check(plan_peaks(PLANS[name], radii, META, torch.float16), LIMITS[name][radii == RADIUS_40K])


def test_the_surface_needs_no_more_than_the_network_before_it() -> None:
    voxels = len(voxels_of(RADIUS_20K, 64))
    weights = PUBLISHED_BYTES["slat_decoder_mesh"][0]
    assert surface_peak(RADIUS_20K) + weights <= expected_peaks(PLANS["8GB"], voxels)["mesh"]


def test_meta_and_data_have_the_same_peaks() -> None:
    stages = ("condition", "ss", "ss_decoder", "gaussian")  # the others gather neighbours in another way on a CPU
    meta, data = (plan_peaks(PLANS["8GB"], (1.9,), device, None, NARROW, stages)["stages"] for device in (META, CPU))
    for name in stages:
        on_top, other = (each[name]["peak_bytes"] - each[name]["weights_bytes"] for each in (meta, data))
        assert other == pytest.approx(on_top, rel=0.2), name


def test_only_the_weights_of_a_stage_are_there_under_the_smallest_plan() -> None:
    stages = ("ss", "gaussian")
    small, large = (plan_peaks(PLANS[name], (1.9,), CPU, None, SMALL, stages)["stages"] for name in ("8GB", "16GB"))
    assert small["gaussian"]["weights_bytes"] < large["gaussian"]["weights_bytes"]


def test_the_documented_peaks_are_the_measured_ones() -> None:
    measured = json.loads((DOCS / "measured" / "memory_plans.json").read_text(encoding="utf-8"))
    peaks: dict[str, list[str]] = {}
    for row in measured["traced"]:
        peak = max(stage["peak_bytes"] for stage in row["stages"].values())
        peaks.setdefault(row["plan"], []).append(f"{peak / GIB:.1f}")
    lines = [line.split(" | ") for line in (DOCS / "gpu.md").read_text(encoding="utf-8").splitlines()]
    shown = {cells[0].strip("| `"): [cell.strip("| ") for cell in cells[2:]] for cells in lines if len(cells) == 4}
    assert {name: shown[name] for name in PLANS} == peaks
    assert list(peaks) == list(PLANS)
