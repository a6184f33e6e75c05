"""Normals and volumes of meshes against trimesh's."""

import numpy as np
import pytest
import trimesh

from fast_sam3d.geometry import triangles
from fast_sam3d.geometry.triangles import signed_volume, vertex_normals


def rough(seed=0):
    """A closed mesh with a bumpy surface, and faces without an area."""
    ball, random = trimesh.creation.icosphere(subdivisions=3), np.random.default_rng(seed)
    vertices = ball.vertices * random.uniform(0.8, 1.2, (len(ball.vertices), 1)) * 0.4
    flat = [[0, 0, 5], [7, 7, 7], [1, 2, 1]]
    return vertices, np.concatenate([ball.faces, flat])


@pytest.mark.parametrize("block", [1 << 15, 100])
def test_vertex_normals_are_bit_for_bit_those_of_trimesh(block, monkeypatch):
    monkeypatch.setattr(triangles, "BLOCK", block)
    vertices, faces = rough()
    vertices[3] = vertices[2]  # two corners at one place
    vertices = np.concatenate([vertices, [[9.0, 9.0, 9.0]]])  # in no face
    expected = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    assert np.array_equal(vertex_normals(vertices, faces), expected)
    assert not vertex_normals(vertices, faces)[-1].any()


def test_the_volume_of_a_closed_mesh_does_not_depend_on_its_place():
    vertices, faces = rough()
    expected = trimesh.Trimesh(vertices, faces, process=False).volume
    for shift in (0.0, 100.0):
        assert np.isclose(signed_volume(vertices + shift, faces), expected, rtol=1e-6)
    assert np.isclose(signed_volume(vertices, faces[:, ::-1]), -expected)
