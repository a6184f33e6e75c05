"""Pictures of crowded meshes without their hidden faces, against pictures of the whole."""

import numpy as np
import pytest
import trimesh

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.render.renderer import MeshRenderer
from fast_sam3d.render.visible import CROWDED, AnyMeshRenderer, maybe_visible

VIEW = Camera.orbit(30.0, 20.0, distance=2.0, fov_deg=40.0, size=64)


def crowd():
    """A ball within a ball, and a thin ring around both: more vertices than the view has pixels."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    inner = trimesh.creation.icosphere(subdivisions=4, radius=0.3)
    ring = trimesh.creation.torus(0.5, 0.012, 600, 12)
    return trimesh.util.concatenate([ball, inner, ring])


def picture(mesh, rgb, faces=None, rows=slice(None)):
    return MeshRenderer(mesh.vertices[rows], mesh.faces if faces is None else faces, rgb[rows])(VIEW)


def test_a_picture_without_hidden_faces_is_that_of_all():
    mesh = crowd()
    rgb = np.random.default_rng(0).random((len(mesh.vertices), 3))
    some, faces = maybe_visible(mesh.vertices, mesh.faces, VIEW)
    assert len(faces) < 0.7 * len(mesh.faces)
    assert not np.isin(np.arange(len(mesh.vertices))[np.linalg.norm(mesh.vertices, axis=1) < 0.31], some).any()
    whole, reduced = picture(mesh, rgb), picture(mesh, rgb, faces, some)
    assert np.array_equal(whole.mask, reduced.mask)
    assert np.abs(whole.rgb - reduced.rgb).max() < 0.05


def test_vertices_without_a_face_hide_nothing():
    mesh = crowd()
    open_side = mesh.triangles_center @ -VIEW.rotation[:, 2] < 0.25
    some, faces = maybe_visible(mesh.vertices, mesh.faces[open_side], VIEW)
    rgb = np.full((len(mesh.vertices), 3), 0.7)
    whole, reduced = picture(mesh, rgb, mesh.faces[open_side]), picture(mesh, rgb, faces, some)
    assert np.mean(np.abs(whole.rgb - reduced.rgb).max(axis=2) > 0.02) < 0.002


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_mesh_that_is_not_crowded_stays_whole(share):
    count = int(share * CROWDED * 64 * 64)
    vertices = np.random.default_rng(0).random((count, 3))
    faces = np.arange(count // 3 * 3).reshape(-1, 3)
    some, between = maybe_visible(vertices, faces, VIEW)
    assert len(some) == count and between is faces


@pytest.mark.parametrize("crowded", [True, False])
def test_a_renderer_for_any_size_draws_like_that_for_all_faces(crowded):
    mesh = crowd() if crowded else trimesh.creation.icosphere(subdivisions=2)
    rgb = np.random.default_rng(0).random((len(mesh.vertices), 3))
    expected = picture(mesh, rgb)
    found = AnyMeshRenderer(mesh.vertices, mesh.faces, rgb)(VIEW)
    assert np.abs(found.rgb - expected.rgb).max() <= 0.05 * crowded
