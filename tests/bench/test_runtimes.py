"""Differences of two pipelines, stage by stage; with the stock classes in tests/stock/native."""

from __future__ import annotations

import pytest
import torch

from fast_sam3d.bench.runtimes import compare_stages, run_stages
from tests.minis import rgba
from tests.native.tiny import random_native


def test_equal_pipelines_differ_nowhere_and_others_in_the_stage_that_differs() -> None:
    first, second = random_native(), random_native()
    results = run_stages(first, rgba(), seed=3, steps=(3, 2))
    rows = compare_stages(results, run_stages(second, rgba(), seed=3, steps=(3, 2), given=results))
    assert len(rows) > 30 and {row.relative for row in rows} == {0.0}
    second.models["slat_generator"].reverse_fn.backbone.out_layer.weight.mul_(1.5)
    rows = compare_stages(results, run_stages(second, rgba(), seed=3, steps=(3, 2), given=results))
    assert {row.stage for row in rows if not row.within(1e-3)} == {"structured latent"}


def test_what_is_missing_or_of_another_shape_is_beyond_every_limit() -> None:
    known = torch.tensor([1.0, torch.nan])
    rows = compare_stages(
        {"a": {"x": known, "y": known, "z": known, "same": known}},
        {"a": {"x": known[:1], "y": known.flip(0), "same": known}},
    )
    assert [row.name for row in rows if not row.within(torch.inf)] == ["x", "y", "z"]


def test_a_mesh_with_other_faces_is_compared_at_its_nearest_vertices() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    one = {"vertices": corners, "faces": torch.tensor([[0, 1, 2], [1, 3, 2]])}
    other = {"vertices": corners.flip(0) + 0.01, "faces": torch.tensor([[0, 1, 2]])}
    rows = {row.name: row for row in compare_stages({"mesh": one}, {"mesh": other})}
    assert rows["vertices"].largest == pytest.approx(0.01)
    assert rows["faces"].relative == 0.5
