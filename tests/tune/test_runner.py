"""Measurement of candidates on a pipeline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fast_sam3d import metrics
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.bench.runs import Given
from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.bench.variant import Variant
from fast_sam3d.errors import InputError
from fast_sam3d.run.object import RunSettings
from fast_sam3d.tune import runner as runners
from fast_sam3d.tune.drift import MEASURES
from fast_sam3d.tune.measurements import Measurements
from fast_sam3d.tune.runner import PipelineRunner, drift
from fast_sam3d.tune.space import EXACT
from tests.fakes import same_vars, snapshot
from tests.minis import picture, random_mini

CACHED = f"ss=step_cache slat=step_cache {EXACT}"
WRONG = f"mesh=fast_sam3d mesh.threshold_low=0.9 mesh.threshold_high=0.2 {EXACT}"
WATCHED = ("voxel_iou", "f1@0.01", "box_iou", "ssim")
STEPS = 6


class Discs:
    """One object, and one that cannot be read."""

    def load(self, name):
        if name == "torn":
            raise InputError("no  picture")
        return BenchObject(name, Given(*picture()))


@pytest.fixture(scope="module")
def pipeline():
    return random_mini()


@pytest.fixture(scope="module")
def measured(pipeline):
    """Rows of one case with few steps, and whether the pipeline was restored."""
    patch = pytest.MonkeyPatch()
    warmed: list[int] = []
    patch.setattr(runners, "warm_up", lambda pipeline, given, variants, formats: warmed.append(len(variants)))
    whole = runners.variant_of
    patch.setattr(runners, "variant_of", lambda text: replace(whole(text), steps=STEPS, slat_steps=STEPS))
    patch.setattr(runners, "Variant", lambda name: Variant(name, STEPS, STEPS))
    patch.setattr(runners, "operations", lambda pipeline, given, variant, formats: float(len(variant.name)))
    before = snapshot(pipeline)
    run = PipelineRunner(
        pipeline, Discs(), RunSettings(formats=("mesh", "gaussian")), WATCHED, frozenset({("disc", 7)}), points=200
    )
    rows = run([OFF, OTHER_SEED, EXACT, CACHED, WRONG], ("disc", 7))
    patch.undo()
    assert warmed == [4], "each method that can run, before the first is timed"
    return {row["method"]: row for row in rows}, same_vars(before, snapshot(pipeline))


def test_every_method_has_a_row_and_the_pipeline_is_restored(measured):
    rows, untouched = measured
    assert untouched and set(rows) == {OFF, OTHER_SEED, EXACT, CACHED, WRONG}
    assert rows[CACHED]["network_calls"] < rows[EXACT]["network_calls"] == rows[OFF]["network_calls"]
    assert rows[CACHED]["operations"] == len(CACHED), "counted where requested"
    assert sorted(row["place"] for row in rows.values() if "place" in row) == [0, 1, 2, 3]
    assert all(row["ss_seconds"] > 0 for row in rows.values() if "place" in row)


def test_exact_savings_have_no_drift_and_another_seed_the_most(measured):
    rows, _ = measured
    assert not any(name.startswith("drift_") for name in rows[OFF])
    assert rows[EXACT]["drift_voxel_iou"] == pytest.approx(0.0, abs=0.02)
    assert rows[OTHER_SEED]["drift_voxel_iou"] > 0.2
    assert 0 < rows[CACHED]["drift_voxel_iou"] <= 1
    # F1 of a result with itself is below 1, and that is no drift.
    assert rows[EXACT]["drift_f1@0.01"] == pytest.approx(0.0, abs=0.05)


def test_incompatible_settings_are_a_failed_row(measured):
    assert "swap them" in measured[0][WRONG]["error"]


def test_an_object_that_cannot_be_read_fails_in_every_row(pipeline):
    run = PipelineRunner(pipeline, Discs(), RunSettings(formats=("mesh",)), WATCHED)
    rows = run([OFF, OTHER_SEED], ("torn", 7))
    assert [row["error"] for row in rows] == ["InputError: no picture"] * 2
    measurements = Measurements(run, WATCHED)
    measurements.measure([OTHER_SEED], ("torn", 7))
    assert not measurements.usable(("torn", 7)) and measurements.verdict(OTHER_SEED, [("torn", 7)]).objects == 0


def test_drift_is_relative_to_the_score_of_the_baseline_against_itself():
    assert drift("f1@0.01", {"f1@0.01": 0.5}, {"f1@0.01": 0.8}) == pytest.approx(0.3)
    assert drift("add_s", {"add_s": 0.5}, {"add_s": 0.2}) == pytest.approx(0.3)
    assert math.isnan(drift("ssim", {}, {"ssim": 1.0}))


def test_every_measure_is_a_score_of_compare():
    solid = metrics.Reconstruction(
        mesh=_tetrahedron(), voxels=np.zeros((1, 4), int), rotation=np.eye(3), translation=np.zeros(3),
        scale=np.ones(3), latent=np.ones((1, 2)),
    )  # fmt: skip
    for name, (part, sign) in MEASURES.items():
        if part == "appearance":
            continue
        protocol = metrics.Protocol(parts=(part,), points=3000)
        itself = metrics.compare(solid, solid, protocol)
        worse = metrics.compare(metrics.Reconstruction(failed=True), solid, protocol)
        assert name in itself
        if name in worse:
            assert sign * (itself[name] - worse[name]) > 0, f"{name}: a worse result must have positive drift"


def _tetrahedron():
    import trimesh

    return trimesh.creation.box((0.6, 0.5, 0.4))
