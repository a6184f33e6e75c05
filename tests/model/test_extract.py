"""Mesh extraction on fields with known surfaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.model import extract
from fast_sam3d.model.extract import EXTRAPOLATED_CELLS, MARGIN, MeshExtractor
from fast_sam3d.model.sparse import SparseTensor

trimesh = pytest.importorskip("trimesh")
RESOLUTION = 64
VOXELS = RESOLUTION // 4


def field(sdf, drop=(), band: float = 0.9) -> SparseTensor:
    """Cells of the voxels within `band` voxels of the surface, less those in `drop`; colour = position + 0.5."""
    axes = torch.meshgrid(*[torch.arange(VOXELS)] * 3, indexing="ij")
    voxels = torch.stack(axes, dim=-1).reshape(-1, 3)
    voxels = voxels[(sdf((voxels + 0.5) / VOXELS - 0.5) * VOXELS).abs() < band]
    voxels = voxels[[i for i, v in enumerate(voxels.tolist()) if tuple(v) not in drop]]
    coords = torch.cat([torch.zeros(len(voxels), 1, dtype=voxels.dtype), voxels], dim=1)
    grid = SparseTensor(torch.zeros(len(coords), 1), coords).grid.subdivided().subdivided()
    points = (grid.coords[:, 1:] + 0.5) / RESOLUTION - 0.5
    distance = (sdf(points) * VOXELS).clamp(-1, 1)
    return SparseTensor(torch.cat([distance[:, None], points + 0.5], dim=1), grid)


def sphere(radius: float, centre=(0.0, 0.0, 0.0)):
    return lambda p: (p - torch.tensor(centre)).norm(dim=-1) - radius


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


@pytest.mark.parametrize("band", [0.55, 0.9])
def test_mesh_of_a_sphere(band):
    mesh = MeshExtractor(RESOLUTION)(field(sphere(0.3), band=band))
    assert mesh.success
    assert mesh.vertices.dtype == torch.float32
    assert mesh.faces.dtype == torch.int64
    assert mesh.vertex_attrs.shape == (len(mesh.vertices), 6)
    # A tenth of a cell, also where the surface cuts corners off voxels that are not active.
    assert (mesh.vertices.norm(dim=1) - 0.3).abs().max() < 0.1 / RESOLUTION
    solid = as_trimesh(mesh)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)  # positive: faces look outward
    direction = torch.nn.functional.normalize(mesh.vertices, dim=1)
    assert (mesh.vertex_attrs[:, 3:] * direction).sum(dim=1).min() > 0.99
    # There, the colour is that of the nearest active cell.
    assert (mesh.vertex_attrs[:, :3] - (mesh.vertices + 0.5)).abs().max() < (1.5 if band < 0.6 else 0.5) / RESOLUTION


def test_surface_just_outside_the_active_voxels():
    """A box with all active voxels outside: its faces are 0.56 voxels from the centres on the inner side."""
    half = (VOXELS // 2 - 4 + 0.06) / VOXELS

    def box(p):
        d = p.abs() - half
        return d.clamp_min(0).norm(dim=-1) + d.max(dim=-1).values.clamp_max(0)

    solid = as_trimesh(MeshExtractor(RESOLUTION, min_component=0)(field(box, band=0.55)))
    assert solid.is_watertight
    assert solid.body_count == 1
    assert solid.volume == pytest.approx((2 * half) ** 3, rel=0.03)
    assert box(torch.from_numpy(solid.vertices).float()).abs().max() < 1.5 / RESOLUTION


def test_missing_voxel_does_not_open_the_surface():
    sdf = sphere(0.3)
    whole = field(sdf)
    top = (VOXELS // 2, VOXELS // 2, VOXELS - 4)
    drop = {(top[0] - a, top[1], top[2] + c) for a in (0, 1) for c in (-1, 0, 1)}
    pierced = field(sdf, drop=drop)
    assert len(pierced) < len(whole)
    a, b = (as_trimesh(MeshExtractor(RESOLUTION)(f)) for f in (whole, pierced))
    assert b.is_watertight
    assert b.volume == pytest.approx(a.volume, rel=0.02)
    assert b.area < 1.1 * a.area  # an open interior would nearly double it
    assert b.body_count == 1


def test_small_components_are_dropped():
    def sdf(p):
        parts = [sphere(0.14, (-0.2, 0, 0))(p), sphere(0.14, (0.2, 0, 0))(p), sphere(0.012, (0, 0.4, 0))(p)]
        return torch.stack(parts).amin(dim=0)

    fields = field(sdf, band=1.2)
    assert as_trimesh(MeshExtractor(RESOLUTION, min_component=0.01)(fields)).body_count == 2
    assert as_trimesh(MeshExtractor(RESOLUTION, min_component=0)(fields)).body_count == 3
    assert as_trimesh(MeshExtractor(RESOLUTION, min_component=0.6)(fields)).body_count == 1


def test_object_cut_by_the_cube_is_closed():
    mesh = MeshExtractor(RESOLUTION)(field(sphere(0.55)))
    assert mesh.success
    assert as_trimesh(mesh).is_watertight
    assert mesh.vertices.abs().max() <= 0.5 + 0.5 / RESOLUTION


@pytest.mark.parametrize("distance", [0.0, 0.7, float("nan")])
def test_field_without_surface_gives_an_empty_mesh(distance):
    empty = field(sphere(0.3))
    feats = empty.feats.clone()
    feats[:, 0] = distance
    mesh = MeshExtractor(RESOLUTION)(empty.replace(feats))
    assert not mesh.success
    assert mesh.vertices.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)
    assert mesh.vertex_attrs.shape == (0, 6)


def test_nan_cells_still_give_a_watertight_mesh():
    fields = field(sphere(0.3))
    feats = fields.feats.clone()
    feats[::97] = float("nan")
    mesh = MeshExtractor(RESOLUTION)(fields.replace(feats))
    assert torch.isfinite(mesh.vertices).all()
    assert torch.isfinite(mesh.vertex_attrs).all()
    assert as_trimesh(mesh).is_watertight


def test_extraction_is_deterministic():
    fields = field(sphere(0.25, (0.1, 0.0, -0.1)))
    first, second = (MeshExtractor(RESOLUTION)(fields) for _ in range(2))
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.faces, second.faces)


def test_cells_outside_the_grid_are_refused():
    with pytest.raises(ValueError, match="outside the grid of 32"):
        MeshExtractor(32)(field(sphere(0.3)))


def shells(seed: int) -> np.ndarray:
    """[n, 3] cells of two thin shells with holes, and crumbs."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(18)] * 3, indexing="ij"), axis=-1)
    away = np.linalg.norm(places - generator.uniform(6, 11, 3), axis=-1)
    active = (np.abs(away - 6) < 0.8) | (np.abs(away - 2.5) < 0.6)
    active &= generator.random(active.shape) > 0.05 * (seed % 4)
    active |= generator.random(active.shape) > 0.997
    return np.argwhere(active)


@pytest.mark.parametrize("low", [-1.0, -0.1], ids=["mixed borders", "clear borders"])
@pytest.mark.parametrize("seed", range(8))
def test_nearest_cells_equal_a_full_distance_transform(seed, low):
    from scipy import ndimage

    generator = np.random.default_rng(seed)
    cells = shells(seed) + MARGIN
    index = np.full(cells.max(0) + 1 + MARGIN, -1, np.int32)
    index[tuple(cells.T)] = np.arange(len(cells))
    away, where = ndimage.distance_transform_edt(index < 0, return_indices=True)
    expected = np.where(away <= EXTRAPOLATED_CELLS, index[tuple(where)], -1)
    assert np.array_equal(extract._nearest_within_reach(index, cells), expected)

    rest = away > EXTRAPOLATED_CELLS
    volume = np.where(rest, 0, generator.uniform(low, 1, index.shape)).astype(np.float32)
    expected = signed(volume, rest)
    extract._sign_of_the_rest(volume, rest)
    assert np.array_equal(volume, expected)


def test_single_cell_region_takes_its_neighbours_sign():
    rest = np.zeros((3, 3, 3), bool)
    rest[1, 1, 1] = True
    volume = np.ones(rest.shape, np.float32)
    volume[:, :, 0] = volume[0, 1, 1] = volume[1, 0, 1] = -1  # half of its six neighbours, with (1, 1, 0)
    expected = signed(volume, rest)
    extract._sign_of_the_rest(volume, rest)
    assert np.array_equal(volume, expected)


def hollow(edge: int = 24, wall: int = 4) -> np.ndarray:
    """[edge]^3 distances of a cube with an empty inside: -1 within the wall, 1 in the void and around the cube."""
    volume = np.ones((edge,) * 3, np.float32)
    volume[3:-3, 3:-3, 3:-3] = -1
    low, high = 3 + wall, edge - 3 - wall
    volume[low:high, low:high, low:high] = 1
    return volume


@pytest.mark.parametrize("hole", [0, 1, 2])
def test_a_void_behind_a_narrow_hole_is_filled(hole):
    volume = hollow()
    centre = volume.shape[0] // 2
    volume[centre : centre + hole, centre : centre + hole, :centre] = 1
    extract._fill_voids(volume)
    assert (volume[7:-7, 7:-7, 8:-7] < 0).all()


def test_open_cavity_is_kept():
    volume = hollow()
    centre = volume.shape[0] // 2
    volume[centre - 2 : centre + 1, centre - 2 : centre + 1, :centre] = 1  # three cells wide
    expected = volume.copy()
    extract._fill_voids(volume)
    assert np.array_equal(volume, expected)


@pytest.mark.parametrize("gap", [1, 2])
def test_narrow_gap_is_kept(gap):
    volume = np.ones((24, 24, 24), np.float32)
    volume[3:-3, 3:-3, 4:-4] = -1
    volume[:, :, 11 : 11 + gap] = 1
    expected = volume.copy()
    extract._fill_voids(volume)
    assert np.array_equal(volume, expected)


@pytest.mark.parametrize("x", [4, 8])
def test_distant_vertex_has_the_colour_of_the_nearest_cell(x):
    index = np.full((12, 7, 7), -1, np.int32)
    index[3, 3, 3], index[11, 3, 3] = 0, 1
    near = extract._nearest_within_reach(index[:9], np.array([[3, 3, 3]]))
    near = np.concatenate([near, np.full((3, 7, 7), -1, np.int32)])
    rgb = np.eye(3)  # the last is of no cell
    got = extract._colour(np.array([[x + 0.4, 4.4, 3.0]]), index, near, rgb)
    assert got.tolist() == ([[1, 0, 0]] if x == 4 else [[0, 1, 0]])


def signed(volume: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Signs of the rest, cell by cell and region by region."""
    from scipy import ndimage

    region, count = ndimage.label(rest)
    where = ndimage.distance_transform_edt(rest, return_distances=False, return_indices=True)
    result = volume.copy()
    for number in range(1, count + 1):
        border = []
        for place in np.argwhere(region == number):
            for axis in range(3):
                for step in (-1, 1):
                    other = place.copy()
                    other[axis] += step
                    if 0 <= other[axis] < rest.shape[axis] and not rest[tuple(other)]:
                        border.append(volume[tuple(other)] < 0)
        share = np.mean(border) if border else 0.0
        for place in map(tuple, np.argwhere(region == number)):
            nearest = volume[tuple(axis[place] for axis in where)] < 0
            inside = True if share > extract.DECISIVE else False if share < 1 - extract.DECISIVE else nearest
            result[place] = -1 if inside else 1
    return result
