"""The measurement of the stock classes, tiny and on a CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch

from fast_sam3d.bench.gpu import measure, stock
from fast_sam3d.bench.gpu.measure import Settings
from fast_sam3d.bench.gpu.networks import FULL, SMALL, build, native_networks
from fast_sam3d.bench.gpu.plan import Cell, variants, voxels
from fast_sam3d.bench.gpu.stock import stock_networks
from fast_sam3d.model.published import FILES
from tests.stock.native.test_embedders import TimmBlock
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
    for step in ("probe", "plans"):
        monkeypatch.setattr(measure.Run, step, lambda self, precision: None)
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


def test_full_size_networks_equal_this_projects_in_names_and_sizes() -> None:
    meta = torch.device("meta")
    with importable():
        theirs = stock_networks(FULL.settings, (), meta, torch.float16).models
    ours = native_networks(FULL.settings, (), meta, torch.float16).models
    for name in FILES.values():
        sizes = [
            {key.replace(".conv.", "."): value.numel() for key, value in models[name].state_dict().items()}
            for models in (theirs, ours)
        ]
        assert sizes[0] == sizes[1]


@pytest.mark.skipif(find_spec("dinov2") is None, reason="dinov2 is not importable")
def test_full_size_embedders_equal_this_projects_in_names_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr(stock, "DINO", Path(find_spec("dinov2").origin).parents[1])  # type: ignore[union-attr,arg-type]
    with importable(), mock.patch("sam3d_objects.model.backbone.dit.embedder.pointmap.Block", TimmBlock):
        theirs = stock_networks(FULL.settings, ("condition",), meta, torch.float16).condition_embedders
    ours = native_networks(FULL.settings, (), meta, torch.float16).condition_embedders
    for name, embedder in theirs.items():
        shapes = [{key: value.shape for key, value in e.state_dict().items()} for e in (embedder, ours[name])]
        assert shapes[0] == shapes[1]
