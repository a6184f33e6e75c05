"""Runs of several variants on one object."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d.bench.runs import Given, run, run_variants
from fast_sam3d.bench.variant import Variant
from fast_sam3d.errors import InputError
from fast_sam3d.run.object import RunSettings
from tests.stand_in import StandIn

CACHED = {"ss": {"when": {"name": "stride", "stride": 5}}}
MESH = RunSettings(formats=("mesh",))
IMAGE, MASK = np.full((6, 8, 3), 9, np.uint8), np.eye(6, 8) > 0
POINTS = np.ones((6, 8, 3), np.float32)


def test_pipeline_is_called_as_by_infer():
    pipeline = StandIn()
    run(pipeline, Given(IMAGE, MASK, POINTS), Variant("x", 7, 5, seed=3), MESH)
    given = pipeline.arguments
    assert given["image"].shape == (6, 8, 4) and np.array_equal(given["image"][..., 3], MASK * np.uint8(255))
    assert given["mask"] is None and given["seed"] == 3 and given["decode_formats"] == ["mesh"]
    assert (given["stage1_inference_steps"], given["stage2_inference_steps"]) == (7, 5)
    assert given["pointmap"].shape == (6, 8, 3) and not given["with_mesh_postprocess"]
    assert given["with_layout_postprocess"]
    run(pipeline, Given(IMAGE, MASK, POINTS), Variant("x", 7, given_depth=False), MESH)
    assert pipeline.arguments["pointmap"] is None and pipeline.arguments["stage2_inference_steps"] == 7


def test_runs_are_returned_in_the_order_of_the_variants():
    pipeline, variants = StandIn(), [Variant("a", 4), Variant("b", 5, config=CACHED), Variant("c", 6)]
    outcomes = run_variants(pipeline, Given(IMAGE, MASK), variants, MESH, order=[2, 0, 1], memory=True)
    assert [(o.variant.name, o.place) for o in outcomes] == [("a", 1), ("b", 2), ("c", 0)]
    assert outcomes[0].report.solves[0].steps_planned == 4
    assert outcomes[1].report.network_calls_saved > 0 == outcomes[0].report.network_calls_saved
    assert all(0 < o.cpu_seconds < 60 for o in outcomes)
    columns = outcomes[0].columns(("ss", "pointmap"))
    assert 0 < columns["ss_seconds"] < columns["seconds"] and np.isnan(columns["pointmap_seconds"])


def test_only_what_is_expected_is_caught():
    class Broken(StandIn):
        def run(self, *args, **options):
            raise InputError("too small")

    given, variants = Given(IMAGE, MASK), [Variant("a")]
    (outcome,) = run_variants(Broken(), given, variants, MESH)
    assert outcome.result is None and outcome.error == "InputError: too small"
    with pytest.raises(InputError):
        run_variants(Broken(), given, variants, MESH, catch=(KeyError,))


def test_result_that_cannot_be_copied_counts_as_failed():
    def refuse(result):
        raise ValueError("not finite")

    (outcome,) = run_variants(StandIn(), Given(IMAGE, MASK), [Variant("a", 3)], MESH, catch=(ValueError,), keep=refuse)
    assert outcome.result is None and "not finite" in outcome.error
