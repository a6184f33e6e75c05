"""Sparse mesh extraction against the stock extractor on its whole grid, bit for bit."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from fast_sam3d.exact.extraction import ExtractionSeam, extract
from fast_sam3d.patch import Layer, Patch
from tests.stock.stand_ins import importable

RES = 16


def stock(res: int = RES, use_color: bool = True) -> Any:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.representations.mesh import SparseFeatures2Mesh

        return SparseFeatures2Mesh(device="cpu", res=res, use_color=use_color)


def grid(chosen: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    return chosen(*torch.meshgrid(*[torch.arange(RES)] * 3, indexing="ij")).nonzero()


def at_random(share: float) -> Tensor:
    return (torch.rand(RES, RES, RES, generator=torch.Generator().manual_seed(1)) < share).nonzero()


def away(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """From the grid's middle, in cells."""
    return (torch.stack([x, y, z], dim=-1) + 0.5 - RES / 2).norm(dim=-1)


OBJECTS: dict[str, Tensor] = {
    "shell": grid(lambda *p: (away(*p) - 5.3).abs() < 1.1),
    "thin slab": grid(lambda x, y, z: x == 4),
    "stick": grid(lambda x, y, z: (x == 3) & (y == 9)),
    "one cell": torch.tensor([[7, 0, RES - 1]]),
    "at the border": grid(lambda x, y, z: (x == 0) | (y == RES - 1)),
    "crumbs": at_random(0.03),
    "half": at_random(0.5),
    "everything": grid(lambda x, y, z: x >= 0),
}
OBJECTS["unsorted"] = OBJECTS["shell"].flip(0).roll(7, 0)


def cells(coords: Tensor, channels: int, seed: int = 0, distance: str = "random") -> SimpleNamespace:
    """Features of a decoder; distances of a sphere, or random, which cover all ambiguous cases."""
    feats = torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(seed))
    if distance == "sphere":
        corners = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)])
        feats[:, :8] = (coords[:, None] + corners - RES / 2).norm(dim=-1) - 5.3 + 0.2 * feats[:, :8]
    elif distance != "random":
        feats[:, :8] = (feats[:, :8].abs() + 1) * (1 if distance == "outside" else -1)
    return SimpleNamespace(coords=torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1).int(), feats=feats)


def same(mesh: Any, vertices: Any, faces: Any, colours: Any) -> bool:
    known = (mesh.vertices, mesh.faces, mesh.vertex_attrs)
    return all(
        a is b is None or (a.dtype == b.dtype and torch.equal(a, b))
        for a, b in zip(known, (vertices, faces, colours), strict=True)
    )


@pytest.fixture
def decoder() -> Iterator[Any]:
    """The owner of an extractor, patched; it must be restored."""
    thing: Any = nn.Module()
    thing.mesh_extractor = extractor = stock()
    before = dict(vars(thing))
    patch = Patch()
    patch.add(thing, "mesh_extractor", Layer(object(), True), lambda: ExtractionSeam(thing))
    assert isinstance(thing.mesh_extractor, ExtractionSeam)
    yield thing
    patch.remove()
    assert thing.mesh_extractor is extractor
    assert vars(thing) == before


@pytest.mark.parametrize("use_color", [True, False], ids=["colour", "no colour"])
@pytest.mark.parametrize("distance", ["random", "sphere", "inside", "outside"])
@pytest.mark.parametrize("name", OBJECTS)
def test_bit_identical_to_the_stock_code(name: str, distance: str, use_color: bool) -> None:
    extractor = stock(use_color=use_color)
    given = cells(OBJECTS[name], extractor.feats_channels, distance=distance)
    biased = copy.deepcopy(given)
    expected, got = extractor(given, training=False), extract(extractor, biased)
    assert same(expected, *got)
    assert expected.success == (distance != "outside" and bool(len(expected.faces)))
    assert torch.equal(given.feats, biased.feats)  # the stock one changes them, too


@pytest.mark.parametrize("seed", range(20))
def test_many_random_objects(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    res = int(torch.randint(2, 14, (), generator=generator))
    share = float(torch.rand((), generator=generator))
    coords = (torch.rand(res, res, res, generator=generator) < share).nonzero()
    if not len(coords):
        coords = torch.tensor([[0, 1, 1]])
    extractor = stock(res)
    given = cells(coords, extractor.feats_channels, seed)
    given.feats[given.feats.abs() < 0.01] = torch.nan
    expected: Any = extractor(copy.deepcopy(given), training=False)
    got: Any = extract(extractor, given)
    assert torch.equal(expected.faces, got[1])
    assert torch.equal(expected.vertices.nan_to_num(9), got[0].nan_to_num(9))
    assert torch.equal(expected.vertex_attrs.nan_to_num(9), got[2].nan_to_num(9))


def test_half_precision() -> None:
    extractor = stock()
    given = cells(OBJECTS["shell"], extractor.feats_channels)
    given.feats = given.feats.to(torch.bfloat16)
    other = copy.deepcopy(given)
    with pytest.raises(RuntimeError, match="same scalar type"):
        extractor(given, training=False)
    with pytest.raises(RuntimeError, match="same scalar type"):
        extract(extractor, other)


def test_a_patched_decoder_gives_the_same_meshes(decoder: Any) -> None:
    extractor, before = stock(), torch.get_rng_state()
    decoder.mesh_extractor(cells(OBJECTS["crumbs"], extractor.feats_channels))  # this one also tries the extractor
    given = cells(OBJECTS["shell"], extractor.feats_channels)
    expected = extractor(copy.deepcopy(given), training=False)
    with mock.patch.object(type(extractor), "__call__", side_effect=AssertionError("the whole grid was used")):
        got = decoder.mesh_extractor(given, training=False)
    assert type(got) is type(expected) and same(expected, got.vertices, got.faces, got.vertex_attrs)
    assert torch.equal(got.face_normal, expected.face_normal)
    assert (got.res, got.success) == (expected.res, expected.success)
    assert torch.equal(torch.get_rng_state(), before)
    assert decoder.mesh_extractor.res == RES


def test_inside_another_default_device(decoder: Any) -> None:
    """As in the stock pipeline: no tensor may be created on the default device by accident."""
    extractor = stock()
    given = cells(OBJECTS["shell"], extractor.feats_channels)
    expected = extractor(copy.deepcopy(given))
    with torch.device("meta"):
        got = decoder.mesh_extractor(given)
    assert decoder.mesh_extractor.result is type(expected)
    assert same(expected, got.vertices, got.faces, got.vertex_attrs)


def test_training_uses_the_stock_code(decoder: Any) -> None:
    extractor = stock()
    given = cells(OBJECTS["shell"], extractor.feats_channels)
    expected = extractor(copy.deepcopy(given), training=True)
    got = decoder.mesh_extractor(given, training=True)
    assert same(expected, got.vertices, got.faces, got.vertex_attrs)
    assert torch.equal(got.reg_loss, expected.reg_loss) and torch.equal(got.tsdf_s, expected.tsdf_s)


@pytest.mark.parametrize("coords", [torch.tensor([[0, 0, RES]]), torch.zeros(0, 3, dtype=torch.long)])
def test_inputs_refused_by_the_stock_extractor_are_refused(coords: Tensor, decoder: Any) -> None:
    extractor = stock()
    given = cells(coords, extractor.feats_channels)
    try:
        expected = extractor(copy.deepcopy(given), training=False)
    except Exception as error:
        with pytest.raises(type(error)):
            decoder.mesh_extractor(given)
    else:
        got = decoder.mesh_extractor(given)
        assert same(expected, got.vertices, got.faces, got.vertex_attrs)


def test_another_extractor_disables_the_saving(decoder: Any, caplog: pytest.LogCaptureFixture) -> None:
    extractor = stock()

    class Shifted(type(extractor)):  # type: ignore[misc]
        def __call__(self, cubefeats: Any, training: bool = False) -> Any:
            mesh = super().__call__(cubefeats, training)
            mesh.vertices = mesh.vertices + 0.1
            return mesh

    extractor.__class__ = Shifted
    vars(decoder)["mesh_extractor"]._earlier, kept = extractor, vars(decoder)["mesh_extractor"]._earlier
    given = cells(OBJECTS["shell"], extractor.feats_channels)
    expected = extractor(copy.deepcopy(given))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            got = decoder.mesh_extractor(copy.deepcopy(given))
            assert same(expected, got.vertices, got.faces, got.vertex_attrs)
    assert [r.message for r in caplog.records] == [
        "mesh: exact.extraction stays off, because the extractor (Shifted) fails on a small trial: ValueError: "
        "vertices differ"
    ]
    vars(decoder)["mesh_extractor"]._earlier = kept


def test_a_copy_has_its_own_extractor(decoder: Any) -> None:
    twin = copy.deepcopy(decoder)
    assert isinstance(twin.mesh_extractor, ExtractionSeam)
    assert twin.mesh_extractor.owner() is twin
    assert twin.mesh_extractor.original() is not decoder.mesh_extractor.original()
    given = cells(OBJECTS["shell"], 101)
    a, b = decoder.mesh_extractor(copy.deepcopy(given)), twin.mesh_extractor(given)
    assert same(a, b.vertices, b.faces, b.vertex_attrs)
