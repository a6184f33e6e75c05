"""The published surface extraction against a slow one, cube by cube. `tests/stock/native` has the stock extractor."""

from __future__ import annotations

import copy
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.geometry import surface_cubes
from fast_sam3d.geometry.surface_cubes import CORNERS
from fast_sam3d.native import surface
from fast_sam3d.native.allocations import traced
from fast_sam3d.native.surface import SurfaceExtractor
from fast_sam3d.native.tables import EDGES, groups, tables
from fast_sam3d.outputs.meshes import mesh_summary, mesh_to_trimesh
from tests.devices import DEVICE, Accelerator, OnDevice

RES = 6


def cells(res: int = RES, share: float = 0.4, seed: int = 0, channels: int = 101) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(res, res, res, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    feats = torch.randn(len(coords), channels, generator=generator)
    return SimpleNamespace(coords=torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1).int(), feats=feats)


def of_field(field: Tensor, seed: int = 0) -> SimpleNamespace:
    """All cells of a grid whose corners have the distances of a field [side, side, side]; the rest is random."""
    given = cells(len(field) - 1, share=2.0, seed=seed)
    for corner, offset in enumerate(CORNERS):
        x, y, z = (given.coords[:, 1:].long() + torch.tensor(offset)).unbind(1)
        given.feats[:, corner] = field[x, y, z] + 1 / (len(field) - 1)
    return given


def sphere(res: int, radius: float) -> Tensor:
    """Distances from a sphere in the middle of the grid, in the cube's units."""
    axis = torch.arange(res + 1) / res - 0.5
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).norm(dim=-1) - radius


def slow(given: Any, res: int) -> tuple[np.ndarray, list[list[int]], np.ndarray]:
    """Vertices, faces and colours, cube by cube, in float64."""
    count = Counter[tuple[int, ...]]()
    values: dict[tuple[int, ...], Any] = {}
    weights: dict[tuple[int, ...], Any] = {}
    feats = given.feats.double().numpy()
    for (_, *cell), row in zip(given.coords.tolist(), feats, strict=True):
        weights[tuple(cell)] = row[32:53]
        for number, offset in enumerate(CORNERS):
            corner = tuple(a + b for a, b in zip(cell, offset, strict=True))
            color = row[53 + 6 * number : 59 + 6 * number]
            own = np.concatenate([[row[number] - 1 / res], row[8 + 3 * number : 11 + 3 * number], color])
            values[corner] = values.get(corner, 0) + own
            count[corner] += 1

    def distance(corner: tuple[int, ...]) -> float:
        return values[corner][0] / count[corner] if corner in values else 1.0

    def point(corner: tuple[int, ...]) -> np.ndarray:
        moved, color = (values[corner] / count[corner] if corner in values else np.zeros(10))[1:4], np.zeros(6)
        if corner in values:
            color = (values[corner] / count[corner])[4:]
        return np.concatenate([np.array(corner) / res - 0.5 + np.tanh(moved) / (2 * res), 1 / (1 + np.exp(-color))])

    def case(cube: tuple[int, ...]) -> int:
        return sum((distance(at(cube, corner)) < 0) << corner for corner in range(8))

    def at(cube: tuple[int, ...], corner: int) -> tuple[int, ...]:
        return tuple(a + b for a, b in zip(cube, CORNERS[corner], strict=True))

    cubes = [cube for cube in np.ndindex(res, res, res) if 0 < case(cube) < 255]
    settled = {}
    for cube in cubes:
        flag, *step, instead = tables().ambiguous[case(cube)].tolist()
        other = tuple(a + b for a, b in zip(cube, step, strict=True))
        both = flag and other in cubes and int(tables().ambiguous[case(other), 0])
        settled[cube] = groups(instead if both else case(cube))
    vertices, gammas, vertex_of = [], [], {}
    for cube in sorted(cubes, key=lambda cube: (len(settled[cube]), cube)):
        own = weights.get(cube, np.zeros(21))
        beta, alpha, gamma = 0.99 * np.tanh(own[:12]) + 1, 0.99 * np.tanh(own[12:20]) + 1, 1 / (1 + np.exp(-own[20]))
        for group in settled[cube]:
            parts = []
            for edge in group:
                (a, b), ends = EDGES[edge], [at(cube, corner) for corner in EDGES[edge]]
                s, t = distance(ends[0]) * alpha[a], distance(ends[1]) * alpha[b]
                parts.append((t * point(ends[0]) - s * point(ends[1])) / (t - s))
                vertex_of[cube, edge] = len(vertices)
            vertices.append(np.average(parts, axis=0, weights=beta[list(group)]))
            gammas.append(gamma * 0.99 + 0.005)
    around: dict[tuple[Any, Any], list[int]] = {}
    for cube in cubes:
        for edge, ends in enumerate(EDGES):
            if (cube, edge) in vertex_of:
                around.setdefault((at(cube, ends[0]), at(cube, ends[1])), []).append(vertex_of[cube, edge])
    first, then = [], []
    for (start, _), (a, b, c, d) in sorted((pair, four) for pair, four in around.items() if len(four) == 4):
        first.append([a, b, d, c]) if distance(start) > 0 else then.append([c, d, b, a])
    faces = []
    for a, b, c, d in first + then:
        heavier = gammas[a] * gammas[c] > gammas[b] * gammas[d]
        faces += [[a, b, c], [a, c, d]] if heavier else [[a, b, d], [d, b, c]]
    found = np.array(vertices).reshape(-1, 9)
    return found[:, :3], faces, found[:, 3:]


@pytest.mark.parametrize(("share", "seed"), [(0.05, 0), (0.2, 1), (0.5, 2), (1.0, 3)])
def test_equal_to_the_slow_extraction(share: float, seed: int) -> None:
    given = cells(share=share, seed=seed)
    vertices, faces, colours = slow(given, RES)
    mesh = SurfaceExtractor(RES)(given)
    assert mesh.success and mesh.res == RES
    assert mesh.faces.tolist() == faces
    assert np.abs(mesh.vertices.numpy() - vertices).max() < 1e-4  # where two weights nearly cancel out
    assert mesh.vertex_attrs is not None
    assert np.abs(mesh.vertex_attrs.numpy() - colours).max() < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_noisy_signs_give_a_closed_surface_whose_edges_have_two_faces(seed: int) -> None:
    field = torch.ones(9, 9, 9)
    field[1:-1, 1:-1, 1:-1] = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(seed))
    faces = SurfaceExtractor(8)(of_field(field)).faces
    edges = Counter(zip(faces.flatten().tolist(), faces.roll(-1, 1).flatten().tolist(), strict=True))
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)


def test_a_sphere() -> None:
    given = of_field(sphere(16, 0.3))
    given.feats[:, 8:] = 0
    mesh = SurfaceExtractor(16)(given)
    assert mesh.vertices.norm(dim=1) == pytest.approx(0.3, abs=0.01)
    summary = mesh_summary(mesh_to_trimesh(mesh))
    assert summary["watertight"] and summary["components"] == 1
    assert summary["volume"] == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.06)
    middle = mesh.vertices[mesh.faces].mean(1)
    assert bool(((mesh.face_normal[:, 0] * middle).sum(1) > 0).all())
    assert mesh.face_normal.shape == (len(mesh.faces), 3, 3)
    assert mesh.vertex_attrs is not None and torch.equal(mesh.vertex_attrs, torch.full((len(mesh.vertices), 6), 0.5))


def test_a_surface_ends_at_the_border_of_the_grid() -> None:
    field = (torch.arange(6) - 2.4)[:, None, None].expand(6, 6, 6) / 10
    mesh = SurfaceExtractor(5)(of_field(field))
    assert len(mesh.vertices) == 25 and len(mesh.faces) == 2 * 16


@pytest.mark.parametrize("sign", [1, -1])
def test_without_a_surface_the_mesh_is_empty(sign: int) -> None:
    given = cells()
    given.feats[:, :8] = sign * (given.feats[:, :8].abs() + 1)
    mesh = SurfaceExtractor(RES)(given) if sign > 0 else SurfaceExtractor(RES)(of_field(torch.full((7, 7, 7), -1.0)))
    assert (mesh.vertices.shape, mesh.faces.shape, mesh.success) == ((0, 3), (0, 3), False)
    assert mesh.vertex_attrs is not None and mesh.vertex_attrs.shape == (0, 6)
    with pytest.raises(ValueError, match="no surface was found"):
        mesh_to_trimesh(mesh)


def test_without_cells_the_mesh_is_empty() -> None:
    mesh = SurfaceExtractor(RES)(cells(share=0))
    assert mesh.vertices.shape == mesh.faces.shape == (0, 3) and not mesh.success


def test_without_colour() -> None:
    given = cells()
    coloured = SurfaceExtractor(RES)(given)
    plain = SurfaceExtractor(RES, use_color=False)(SimpleNamespace(coords=given.coords, feats=given.feats[:, :53]))
    assert plain.vertex_attrs is None
    assert torch.equal(plain.vertices, coloured.vertices) and torch.equal(plain.faces, coloured.faces)


def test_the_saving_can_be_switched_off() -> None:
    given, extractor = cells(share=0.1), SurfaceExtractor(RES)
    assert extractor.built_in_savings == ("extraction",)
    fast = extractor(given)
    extractor.everywhere = True
    assert all(torch.equal(a, b) for a, b in zip(parts(fast), parts(extractor(given)), strict=True))


def test_neither_chunks_nor_other_objects_in_the_batch_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = cells()
    want = SurfaceExtractor(RES)(given)
    for module in (surface_cubes, surface):
        monkeypatch.setattr(module, "CHUNK", 13)
    given.coords[:, 0] = 3
    assert all(torch.equal(a, b) for a, b in zip(parts(SurfaceExtractor(RES)(given)), parts(want), strict=True))


def test_features_are_left_as_they_are_and_half_precision_is_computed_in_single() -> None:
    given = cells()
    given.feats = given.feats.half()
    before = copy.deepcopy(given)
    half = SurfaceExtractor(RES)(given)
    assert torch.equal(given.feats, before.feats) and torch.equal(given.coords, before.coords)
    given.feats = given.feats.float()
    single = SurfaceExtractor(RES)(given)
    assert half.vertices.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(parts(half), parts(single), strict=True))


def test_features_that_are_no_numbers_stay_where_they_are() -> None:
    given = cells(share=1.0)
    given.feats[5] = torch.nan
    mesh = SurfaceExtractor(RES)(given)
    assert 0 < int(mesh.vertices.isnan().any(1).sum()) < len(mesh.vertices) / 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"training": True}, "inference"),
        ({"channels": 100}, r"features must be \[\d+, 101\], not \[\d+, 100\]"),
        ({"res": RES + 1}, "grid of 6"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], says: str) -> None:
    training = change.pop("training", False)
    with pytest.raises(FastSam3dError, match=says):
        SurfaceExtractor(RES)(cells(**{"share": 1.0, **change}), training=training)


def test_needs_less_memory_than_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (surface_cubes, surface):
        monkeypatch.setattr(module, "CHUNK", 2**12)  # in proportion to the published size
    res = 64
    given = of_field(sphere(res, 0.45))
    near = given.feats[:, :8].abs().amin(1) < 4 / res  # a shell, of 64 cells per voxel as of the published decoder
    given = SimpleNamespace(coords=given.coords[near], feats=given.feats[near])
    with traced(watch=[given.coords, given.feats]) as found:
        mesh = SurfaceExtractor(res)(given)
    assert len(mesh.faces) > 10_000
    assert found.peak - given.feats.nbytes < 0.75 * given.feats.nbytes


def test_runs_on_another_device() -> None:
    given, accelerator = cells(), Accelerator()
    want = SurfaceExtractor(RES)(given)
    with accelerator.on():
        held = SimpleNamespace(coords=OnDevice(given.coords), feats=OnDevice(given.feats))
        mesh = SurfaceExtractor(RES)(held)
        assert mesh.faces.device == DEVICE
        got = [part.cpu() for part in parts(mesh)]
    assert all(torch.equal(a, b) for a, b in zip(got, parts(want), strict=True))
    assert (accelerator.faults, accelerator.silent) == ([], [])
    assert len(accelerator.syncs) < 25


def parts(mesh: surface.SurfaceMesh) -> list[Tensor]:
    assert mesh.vertex_attrs is not None
    return [mesh.vertices, mesh.faces, mesh.vertex_attrs]
