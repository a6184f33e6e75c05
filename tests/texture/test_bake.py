"""Textured meshes: colours, closedness, seams, and meshes that cannot be textured."""

from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.geometry.surface import Surface
from fast_sam3d.outputs.meshes import load_glb, mesh_summary, mesh_to_surface, save_glb
from fast_sam3d.texture import decimated, textured

pytest.importorskip("xatlas")
pytest.importorskip("fast_simplification")


def colours(points):
    """Smooth in space, with a dark half."""
    shade = 127.5 + 100 * np.sin(points * (9, 7, 11))
    return np.where(points[:, :1] > 0, shade, shade * 0.3)


def ball(subdivisions=5):
    found = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.4)
    rgb = np.round(colours(found.vertices)).astype(np.uint8)
    return Surface(found.vertices.astype(np.float32), np.asarray(found.faces, np.int64), rgb)


def sampled(mesh, count=4000):
    """Points on a textured mesh, with the colours that a viewer shows: bilinear between texels."""
    random = np.random.default_rng(0)
    corners = mesh.faces[random.integers(0, len(mesh.faces), count)]
    weights = random.dirichlet((1, 1, 1), count)
    points, uv = (np.einsum("nkc,nk->nc", values[corners], weights) for values in (mesh.vertices, mesh.uv))
    size = len(mesh.texture)
    place = np.clip(uv * size - 0.5, 0, size - 1.001)
    column, row = place.astype(int).T
    right, down = (place - [*zip(column, row, strict=True)]).T[:, :, None]
    texel = mesh.texture.astype(float)
    top = texel[row, column] * (1 - right) + texel[row, column + 1] * right
    bottom = texel[row + 1, column] * (1 - right) + texel[row + 1, column + 1] * right
    return points, top * (1 - down) + bottom * down


@pytest.fixture(scope="module")
def baked():
    return textured(ball(), size=256, faces=1500)


def test_a_light_mesh_shows_the_colours_of_the_detailed_one(baked):
    points, seen = sampled(baked)
    assert len(baked.faces) <= 1500 < 20480
    smooth = np.abs(points[:, 0]) > 0.02
    assert np.abs(seen - colours(points))[smooth].mean() <= 1
    assert np.allclose(np.linalg.norm(baked.normals, axis=1), 1, atol=1e-3)
    assert (np.einsum("nc,nc->n", baked.normals, baked.vertices) > 0).all()


def test_a_closed_mesh_stays_closed_and_its_seams_meet(baked):
    whole, inverse = np.unique(baked.vertices, axis=0, return_inverse=True)
    assert len(whole) < len(baked.vertices)
    welded = Surface(whole, inverse.reshape(-1)[baked.faces], np.zeros((len(whole), 3), np.uint8))
    assert mesh_summary(welded)["watertight"]
    normals = {}
    for vertex, normal in zip(inverse.reshape(-1).tolist(), baked.normals.tolist(), strict=True):
        assert normals.setdefault(vertex, normal) == normal


def test_the_same_mesh_gives_the_same_bytes(baked, tmp_path):
    again = textured(ball(), size=256, faces=1500)
    save_glb(tmp_path / "a.glb", baked)
    save_glb(tmp_path / "b.glb", again)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    assert np.array_equal(load_glb(tmp_path / "a.glb").texture, baked.texture)


def test_colours_of_gaussians():
    mesh = ball(4)
    turns = np.tile(np.float32([1, 0, 0, 0]), (len(mesh.vertices), 1))
    fine = colours(mesh.vertices) / 255
    cloud = GaussianCloud(
        mesh.vertices, np.full_like(mesh.vertices, 0.01), turns, np.full((len(turns), 1), 0.9, np.float32),
        ((fine - 0.5) / SH_C0)[:, None].astype(np.float32),
    )  # fmt: skip
    points, seen = sampled(textured(mesh, 256, None, cloud))
    assert np.abs(seen - colours(points))[np.abs(points[:, 0]) > 0.03].mean() < 3


def test_a_thin_wall_keeps_both_its_colours():
    slab = trimesh.creation.box((1, 1, 0.002)).subdivide().subdivide().subdivide().subdivide()
    rgb = np.where(slab.vertices[:, 2:] > 0, (250, 0, 0), (0, 0, 250)).astype(np.uint8)
    mesh = textured(Surface(slab.vertices.astype(np.float32), np.asarray(slab.faces, np.int64), rgb), 256, None)
    points, seen = sampled(mesh)
    inner = np.abs(points[:, :2]).max(axis=1) < 0.45
    red = points[:, 2] > 0
    assert seen[inner & red, 2].max() < 5 and seen[inner & ~red, 0].max() < 5


def test_decimating(baked):
    mesh = ball(4)
    fewer = decimated(mesh, 1000)
    assert len(fewer.faces) <= 1000 and mesh_summary(fewer)["watertight"]
    assert np.abs(fewer.rgb - colours(fewer.vertices))[np.abs(fewer.vertices[:, 0]) > 0.02].mean() < 3
    assert decimated(mesh, 10**6) is mesh


FLAT = Surface(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]), np.zeros((3, 3), np.uint8))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: decimated(ball(2), 3), "at least 4"),
        (lambda: textured(ball(2), 8), "8 texels"),
        (lambda: textured(ball(2), 100_000), "100000 texels"),
        (lambda: textured(FLAT), "no face with an area"),
        (lambda: decimated(Surface(FLAT.vertices, np.zeros((9, 3), np.int64), FLAT.rgb), 4), "no face with an area"),
    ],
)
def test_what_cannot_be_textured_gets_a_sentence(call, words):
    with pytest.raises(ExportError, match=words):
        call()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xatlas", None)
    with pytest.raises(ExportError, match=r'xatlas .* pip install "fast-sam3d\[export\]"'):
        textured(ball(1), 64, None)


def test_a_decoded_mesh_becomes_a_surface():
    box = trimesh.creation.box()
    result = SimpleNamespace(vertices=box.vertices, faces=box.faces, vertex_attrs=np.full((8, 6), 0.5), success=True)
    surface = mesh_to_surface(result)
    assert surface.vertices.dtype == np.float32 and set(surface.rgb.reshape(-1)) == {128}


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_the_unit_of_length_does_not_matter(scale):
    mesh = ball(4)
    other = textured(Surface(mesh.vertices * np.float32(scale), mesh.faces, mesh.rgb), 128, 500)
    assert len(other.faces) <= 500
    np.testing.assert_allclose(np.abs(other.vertices).max() / scale, 0.4, rtol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vertex_that_is_not_finite_gets_a_sentence(value):
    mesh = ball(3)
    mesh.vertices[7] = value
    for call in (lambda: textured(mesh, 64, None), lambda: decimated(mesh, 100)):
        with pytest.raises(ExportError, match="not finite"):
            call()
