"""The published surface extraction against the stock extractor on its whole grid, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fast_sam3d.geometry import surface_cubes
from fast_sam3d.native import surface
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.tables import EDGES, tables
from tests.stock.stand_ins import importable
from tests.stock.test_extraction import OBJECTS, RES, cells, same, stock


def test_the_derived_tables_are_those_of_the_stock_code() -> None:
    flexicubes = stock().mesh_extractor
    made = tables()
    assert torch.equal(made.group_edges, flexicubes.dmc_table)
    assert torch.equal(made.group_count, flexicubes.num_vd_table.flatten())
    assert torch.equal(made.ambiguous, flexicubes.check_table)
    assert torch.equal(torch.tensor(EDGES).flatten(), flexicubes.cube_edges)


@pytest.mark.parametrize("use_color", [True, False], ids=["colour", "no colour"])
@pytest.mark.parametrize("distance", ["random", "sphere", "inside", "outside"])
@pytest.mark.parametrize("name", OBJECTS)
def test_bit_identical_to_the_stock_code(name: str, distance: str, use_color: bool) -> None:
    extractor = stock(use_color=use_color)
    own = SurfaceExtractor(RES, use_color)
    given = cells(OBJECTS[name], extractor.feats_channels, distance=distance)
    got = own(copy.deepcopy(given))
    want = extractor(given, training=False)
    assert same(want, got.vertices, got.faces, got.vertex_attrs)
    assert torch.equal(want.face_normal, got.face_normal)
    assert (want.res, want.success, extractor.feats_channels) == (got.res, got.success, own.feats_channels)


@pytest.mark.parametrize("seed", range(30))
def test_many_random_objects(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of many sizes with features that are no numbers, distances of zero, in chunks."""
    for module in (surface_cubes, surface):
        monkeypatch.setattr(module, "CHUNK", 100)
    generator = torch.Generator().manual_seed(seed)
    res = int(torch.randint(2, 14, (), generator=generator))
    coords = (torch.rand(res, res, res, generator=generator) < float(torch.rand((), generator=generator))).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    extractor = stock(res)
    given = cells(coords, extractor.feats_channels, seed)
    if seed % 3 == 0:
        given.feats[given.feats.abs() < 0.01] = torch.nan
    elif seed % 3 == 1:
        given.feats[:, :8] = given.feats[:, :8].round() + 1 / res
    got: Any = SurfaceExtractor(res)(copy.deepcopy(given))
    want: Any = extractor(given, training=False)
    assert torch.equal(want.faces, got.faces)
    assert torch.equal(want.vertices.nan_to_num(9), got.vertices.nan_to_num(9))
    assert torch.equal(want.vertex_attrs.nan_to_num(9), got.vertex_attrs.nan_to_num(9))


def test_a_stock_sparse_tensor_is_accepted() -> None:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.modules.sparse import SparseTensor

        given = cells(OBJECTS["shell"], 101)
        tensor = SparseTensor(given.feats.clone(), given.coords)
        got = SurfaceExtractor(RES)(tensor)
        want = stock()(tensor)
    assert same(want, got.vertices, got.faces, got.vertex_attrs)
