"""Meshes reduced to one vertex per cell."""

import numpy as np
import trimesh

from fast_sam3d.outputs.meshes import mesh_summary
from fast_sam3d.render.cluster import clustered


def test_vertices_stay_within_a_cell_and_the_surface_stays_closed_to_the_eye():
    ball = trimesh.creation.icosphere(subdivisions=5)
    kept, faces = clustered(ball.vertices, ball.faces, 0.1)
    points = ball.vertices[kept]
    assert len(kept) < len(ball.vertices) / 6 and faces.max() < len(kept)
    nearest = np.linalg.norm(ball.vertices[:, None] - points[None], axis=2).min(axis=1)
    assert nearest.max() <= 0.1 * 3**0.5
    assert mesh_summary(trimesh.Trimesh(points, faces, process=False))["boundary_loops"] == 0


def test_fine_cells_keep_every_face():
    ball = trimesh.creation.icosphere(subdivisions=3)
    kept, faces = clustered(ball.vertices, ball.faces, 1e-4)
    assert np.array_equal(kept[faces], ball.faces)
