"""Texels of triangles, against a slow search."""

import numpy as np

from fast_sam3d.texture.raster import covered_texels, fill_gaps


def test_every_texel_centre_inside_a_triangle_is_found():
    random = np.random.default_rng(0)
    size, uv = 24, random.random((30, 2))
    faces = random.integers(0, 30, (12, 3))
    faces = faces[[len(set(face)) == 3 for face in faces.tolist()]]
    found = {(int(t), int(f)) for t, f in zip(*covered_texels(uv, faces, size)[:2], strict=True)}
    expected = set()
    for f, face in enumerate(faces):
        a, b, c = uv[face] * size
        rows, columns = np.mgrid[:size, :size] + 0.5
        sides = [(v[0] - u[0]) * (rows - u[1]) - (v[1] - u[1]) * (columns - u[0]) for u, v in ((a, b), (b, c), (c, a))]
        inside = (np.min(sides, axis=0) >= 0) | (np.max(sides, axis=0) <= 0)
        expected |= {(int(texel), f) for texel in np.flatnonzero(inside)}
    assert found == expected and len(expected) > 300


def test_barycentric_coordinates_lead_back_to_the_texel():
    uv = np.array([[0.1, 0.1], [0.9, 0.2], [0.4, 0.95], [0.95, 0.9]])
    faces = np.array([[0, 1, 2], [3, 2, 1]])
    texel, face, weights = covered_texels(uv, faces, 32)
    back = np.einsum("nkc,nk->nc", uv[faces[face]], weights) * 32 - 0.5
    np.testing.assert_allclose(back, np.stack([texel % 32, texel // 32], axis=1), atol=1e-9)


def test_edges_on_texel_centres_and_triangles_without_area():
    uv = (np.array([[0, 0], [4, 0], [4, 4], [0, 4], [2, 2]]) + 0.5) / 8
    texels = covered_texels(uv, np.array([[0, 1, 2], [0, 2, 3], [0, 2, 4], [1, 1, 1]]), 8)[0]
    assert set(texels) == {row * 8 + column for row in range(5) for column in range(5)}
    assert [len(part) for part in covered_texels(uv, np.array([[0, 0, 0]]), 8)] == [0, 0, 0]


def test_gaps_take_the_nearest_colour():
    texture = np.zeros((3, 5, 3), np.uint8)
    covered = np.zeros((3, 5), bool)
    texture[1, 0], texture[1, 4], covered[1, [0, 4]] = 10, 200, True
    filled = fill_gaps(texture, covered)
    assert filled[0, 1, 0] == 10 and filled[2, 3, 0] == 200
