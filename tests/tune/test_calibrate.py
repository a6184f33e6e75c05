"""Magnitudes of a pipeline's velocities."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.tune.calibrate import watched
from tests.fakes import FakePipeline, equal, same_vars, snapshot


def test_ratios_are_those_of_the_velocities_and_nothing_changes() -> None:
    pipeline = FakePipeline(10)
    plain, before = pipeline.run(seed=0), snapshot(pipeline)
    seen: list[float] = []
    hook = pipeline.models["slat_generator"].reverse_fn.register_forward_hook(
        lambda module, args, v: seen.append(float(v.norm(dim=-1).mean()))
    )
    with watched(pipeline) as magnitudes:
        assert equal(pipeline.run(seed=0), plain)
        assert equal(pipeline.run(seed=0), plain)
    hook.remove()
    assert same_vars(before, snapshot(pipeline))
    ratios = magnitudes.ratios("slat")
    assert ratios == pytest.approx([b / a for a, b in pairwise(seen[:10])], rel=1e-5)
    assert len(magnitudes.ratios("ss")) == 9


def test_runs_of_different_lengths_are_refused() -> None:
    pipeline = FakePipeline(10)
    with watched(pipeline) as magnitudes, torch.no_grad():
        with pytest.raises(FastSam3dError, match=r"ss: observed solves of \[\] steps"):
            magnitudes.ratios("ss")
        pipeline.run()
        pipeline.models["ss_generator"].inference_steps = 5
        pipeline.run()
    with pytest.raises(FastSam3dError, match=r"ss: observed solves of \[5, 10\] steps"):
        magnitudes.ratios("ss")
