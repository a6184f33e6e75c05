"""Meshes as .obj and .stl files, read by an independent loader."""

import numpy as np
import pytest
import trimesh

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.outputs.mesh_files import save_obj, save_stl

UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])


def coloured():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    rgb = np.random.default_rng(0).integers(0, 256, ball.vertices.shape, np.uint8)
    return Surface((ball.vertices * (1, 1, 2)).astype(np.float32), np.asarray(ball.faces, np.int64), rgb)


def textured():
    """A tetrahedron whose faces share no vertex."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    uv = np.random.default_rng(1).random((12, 2)).astype(np.float32)
    texture = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    whole = corners[faces.reshape(-1)]
    return TexturedMesh(whole, np.arange(12).reshape(4, 3), uv, texture, whole - 0.2)


def test_an_obj_has_colours_and_stands_upright(tmp_path):
    mesh = coloured()
    save_obj(tmp_path / "a.obj", mesh)
    read = trimesh.load(tmp_path / "a.obj", process=False)
    np.testing.assert_allclose(read.vertices, mesh.vertices @ UPRIGHT, atol=1e-6)
    assert np.array_equal(read.faces, mesh.faces) and read.is_watertight and read.volume > 0
    assert np.array_equal(read.visual.vertex_colors[:, :3], mesh.rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["a.obj"]


def test_a_textured_obj_has_its_material_beside_it_and_is_closed(tmp_path):
    mesh, target = textured(), tmp_path / "größe 1.obj"
    save_obj(target, mesh)
    assert {p.suffix for p in tmp_path.iterdir()} == {".obj", ".mtl", ".png"}
    read = trimesh.load(target, process=False)
    assert np.array_equal(np.asarray(read.visual.material.image.convert("RGB")), mesh.texture)
    corner_uv = read.visual.uv[read.faces] * (1, -1) + (0, 1)
    corners = read.vertices[read.faces]
    order = (
        np.lexsort(np.round(corners[:, 0] + 10 * corners[:, 1], 3).T),
        np.lexsort(
            np.round(
                (mesh.vertices @ UPRIGHT)[mesh.faces][:, 0] + 10 * (mesh.vertices @ UPRIGHT)[mesh.faces][:, 1], 3
            ).T
        ),
    )
    np.testing.assert_allclose(corner_uv[order[0]], mesh.uv[mesh.faces][order[1]], atol=1e-5)
    lines = target.read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == 4, "corners meet"
    assert sum(line.startswith("vt ") for line in lines) == 12


def test_an_stl_stands_on_its_foot(tmp_path):
    mesh = coloured()
    save_stl(tmp_path / "a.stl", mesh)
    read = trimesh.load(tmp_path / "a.stl")
    assert len(read.faces) == len(mesh.faces) and read.is_watertight and read.volume > 0
    np.testing.assert_allclose(read.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-6)
    assert (np.einsum("nc,nc->n", read.face_normals, read.triangles_center) > 0).all()


@pytest.mark.parametrize("save", [save_obj, save_stl])
def test_a_mesh_that_cannot_be_written_leaves_no_file(tmp_path, save):
    mesh = coloured()
    empty = Surface(mesh.vertices, mesh.faces[:0], mesh.rgb)
    broken = Surface(mesh.vertices * np.float32(np.nan), mesh.faces, mesh.rgb)
    for bad, words in ((empty, "no faces"), (broken, "not finite")):
        with pytest.raises(ExportError, match=words):
            save(tmp_path / "a", bad)
    assert not list(tmp_path.iterdir())
