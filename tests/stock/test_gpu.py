"""The measurement of the stock classes, tiny and on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fast_sam3d.bench.gpu import measure
from fast_sam3d.bench.gpu.measure import Settings
from fast_sam3d.bench.gpu.networks import FULL, SMALL, build
from fast_sam3d.bench.gpu.plan import Cell, variants, voxels
from fast_sam3d.bench.gpu.stock import stock_networks
from fast_sam3d.model.published import FILES, published
from tests.stock.stand_ins import importable, on_cpu

RADIUS = SMALL.radii[0]


@pytest.fixture(autouse=True)
def imported() -> None:
    with importable():
        import sam3d_objects.model.backbone.tdfy_dit.modules.sparse  # noqa: F401


def test_stock_classes_are_measured_beside_this_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [Cell("published", None, stock=True), Cell("published", RADIUS, stock=True)]
    monkeypatch.setattr(measure, "cells", lambda scale, stock: todo)
    ways = [way for way in variants(SMALL) if way.name in ("off", "exact", "fast_sam3d")]
    monkeypatch.setattr(measure, "variants", lambda scale, compiled: ways)
    monkeypatch.setattr(measure.Run, "probe", lambda self, precision: None)
    monkeypatch.setattr(measure.Run, "surfaces", lambda self: None)
    with importable(), on_cpu():
        found = measure.measure(Settings(SMALL, torch.device("cpu"), 60.0, 1, tests=False), tmp_path / "a.json")
    assert found["skipped"] == []
    for cell, stages in zip(found["cells"], (["ss"], ["slat", "mesh", "gaussian"]), strict=True):
        assert cell["stock"] and [row.get("error") for row in cell["variants"]] == [None] * 3
        assert all(list(row["seconds"]) == stages and row["finite"] for row in cell["variants"])
        assert not [line for line in cell["log"] if "fails" in line or "differ" in line]
    calls = [row["calls"] for cell in found["cells"] for row in cell["variants"] if row["name"] == "off"]
    assert calls == [{"ss": 8}, {"slat": 7}]  # as many as of this project's


def test_the_stock_decoder_meshes_a_shell() -> None:
    with importable(), on_cpu():
        (mesh,) = build(SMALL, RADIUS, torch.device("cpu"), "published", stock=True).stages["mesh"]()
    assert 15 < len(mesh.faces) / voxels(RADIUS, SMALL) < 40


def test_full_size_samplers_equal_this_projects_in_number_of_parameters() -> None:
    with importable():
        theirs = stock_networks(FULL.sizes, (), torch.device("meta"), torch.float16).models
    ours = published().models
    for stage in ("ss", "slat"):
        counts = [
            sum(t.numel() for t in (*models[FILES[stage]].parameters(), *models[FILES[stage]].buffers()))
            for models in (theirs, ours)
        ]
        assert counts[0] == counts[1]
    counts = [sum(t.numel() for t in theirs[FILES[stage]].state_dict().values()) for stage in ("mesh", "gaussian")]
    assert counts == pytest.approx([90.93e6, 85.37e6], rel=1e-3)
