"""Renderings against analytic silhouettes and slow reference renderers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.render.renderer import AMBIENT, BLUR_PX2, MeshRenderer, render_gaussians

FRONT = Camera.orbit(0.0, 0.0, distance=2.0, fov_deg=40.0, size=128)


def render_mesh(vertices, faces, colors, camera, **options):
    return MeshRenderer(vertices, faces, colors)(camera, **options)


def draw(mesh, color=(1.0, 1.0, 1.0), camera=FRONT, **options):
    return render_mesh(mesh.vertices, mesh.faces, np.tile(color, (len(mesh.vertices), 1)), camera, **options)


def pixel_grid(size):
    return np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1)  # [..., (u, v)]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def cloud(xyz, sigma=0.05, rgb=(1.0, 0.0, 0.0), opacity=0.9, rotation=(1.0, 0.0, 0.0, 0.0)):
    count = len(xyz)

    def rows(value, width):
        return np.broadcast_to(np.asarray(value, np.float32), (count, width)).copy()

    return GaussianCloud(
        np.asarray(xyz, np.float32),
        rows(sigma, 3),
        rows(rotation, 4),
        rows(opacity, 1),
        (rows(rgb, 3)[:, None] - 0.5) / np.float32(SH_C0),
    )


# -------------------------------------------------------------------------------------------------------- mesh


def test_sphere_silhouette_and_depth():
    image = draw(trimesh.creation.icosphere(subdivisions=4, radius=0.5))
    radius = FRONT.focal * 0.5 / np.sqrt(2.0**2 - 0.5**2)
    disc = np.linalg.norm(pixel_grid(128) - 64, axis=-1) <= radius
    assert iou(image.mask, disc) > 0.985
    assert np.isclose(image.depth[64, 64], 1.5, atol=2e-3)
    assert np.isinf(image.depth[0, 0]) and np.array_equal(np.isfinite(image.depth) | ~image.mask, np.ones((128, 128)))


def test_box_silhouette():
    image = draw(trimesh.creation.box((0.6, 0.2, 0.4)))
    # Straight from the front only the front face, 0.1 nearer than the centre, can be seen.
    half = FRONT.focal * np.array([0.3, 0.2]) / 1.9
    assert iou(image.mask, (np.abs(pixel_grid(128) - 64) <= half).all(axis=-1)) > 0.97


def test_image_axes():
    for offset, rows, columns in (
        ((0.5, 0, 0), slice(48, 80), slice(64, None)),
        ((-0.5, 0, 0), slice(48, 80), slice(None, 64)),
        ((0, 0, 0.5), slice(None, 64), slice(48, 80)),
        ((0, 0, -0.5), slice(64, None), slice(48, 80)),
    ):
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.1)
        mesh.apply_translation(offset)
        mask = draw(mesh).mask
        assert mask.any() and mask[rows, columns].sum() == mask.sum(), offset


def test_the_nearer_triangle_is_visible_in_any_order():
    square = np.array([[-0.3, 0, -0.3], [0.3, 0, -0.3], [0.3, 0, 0.3], [-0.3, 0, 0.3]])
    vertices = np.concatenate([square, 0.5 * square - [0, 0.4, 0]])  # the smaller one is nearer
    colors = np.repeat([[1.0, 0, 0], [0, 1.0, 0]], 4, axis=0)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    for order in (np.concatenate([faces, faces + 4]), np.concatenate([faces + 4, faces])):
        rgb = render_mesh(vertices, order, colors, FRONT).rgb
        assert rgb[64, 64, 1] > 0.4 and rgb[64, 64, 0] == 0
        assert rgb[64, 40, 0] > 0.4 and rgb[64, 40, 1] == 0


def test_interpolated_colour_follows_the_vertices():
    vertices = np.array([[-0.4, 0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]])
    colors = np.array([[0, 0, 0], [1.0, 0, 0], [1.0, 0, 1.0], [0, 0, 1.0]])  # red grows with x, blue with z
    rgb = render_mesh(vertices, [[0, 1, 2], [0, 2, 3]], colors, FRONT).rgb
    x = (np.arange(128) + 0.5 - 64) / FRONT.focal * 2.0
    inside = np.abs(x) < 0.38
    shade = rgb[64, inside, 0] / ((x[inside] + 0.4) / 0.8)  # a flat square is evenly lit
    assert inside.sum() > 30 and np.ptp(shade) < 1e-3 and shade[0] > AMBIENT
    assert rgb[40, 64, 2] > rgb[90, 64, 2]


def test_rasteriser_equals_ray_casting():
    random = np.random.default_rng(1)
    corners = random.uniform(-0.5, 0.5, (25, 1, 3)) + random.normal(0, 0.25, (25, 3, 3))
    camera = replace(Camera.orbit(40.0, 30.0, size=24), principal=(11.3, 12.9))
    image = render_mesh(corners.reshape(-1, 3), np.arange(75).reshape(-1, 3), None, camera)
    fine = camera.resized(48)
    expected = np.full((48, 48), np.inf)
    for row in range(48):
        for column in range(48):
            u, v = fine.principal
            ray = fine.rotation @ [(u - column - 0.5) / fine.focal, (v - row - 0.5) / fine.focal, 1.0]
            eye = -fine.rotation @ fine.translation
            for triangle in corners:
                matrix = np.stack([triangle[1] - triangle[0], triangle[2] - triangle[0], -ray], axis=1)
                a, b, depth = np.linalg.solve(matrix, eye - triangle[0])
                if a >= 0 and b >= 0 and a + b <= 1 and depth > 0:
                    expected[row, column] = min(expected[row, column], depth)
    expected = expected.reshape(24, 2, 24, 2).min(axis=(1, 3))
    same = np.isclose(image.depth, expected, rtol=1e-5) | (np.isinf(image.depth) & np.isinf(expected))
    assert same.mean() > 0.998 and np.isfinite(expected).mean() > 0.3  # up to one pixel centre on an edge


def test_closed_mesh_has_no_cracks():
    for subdivisions in (1, 3, 6):
        mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.5)
        rows, columns = np.nonzero(draw(mesh, background=0.0).mask)
        inner = np.hypot(rows - 63.5, columns - 63.5) < 35
        assert inner.sum() == (np.hypot(*(pixel_grid(128) - 64).transpose(2, 0, 1)) < 35).sum()


def test_back_faces_are_lit_like_front_faces():
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    first = draw(mesh)
    second = render_mesh(mesh.vertices, mesh.faces[:, ::-1], np.ones((len(mesh.vertices), 3)), FRONT)
    assert np.allclose(first.rgb, second.rgb, atol=1e-6)
    assert first.rgb[50, 64].mean() > AMBIENT + 0.2  # the lit side


def test_light_comes_from_the_upper_left():
    rgb = draw(trimesh.creation.icosphere(subdivisions=4, radius=0.5)).rgb
    assert rgb[44, 44].mean() > rgb[44, 84].mean() and rgb[44, 44].mean() > rgb[84, 44].mean()


def test_flat_faces_of_a_cube_are_evenly_lit():
    rgb = draw(trimesh.creation.box((0.6, 0.6, 0.6))).rgb
    face = rgb[50:78, 50:78, 0]
    assert face.max() - face.min() < 1e-5


def test_empty_and_hidden_meshes_give_the_background():
    nothing = render_mesh(np.zeros((0, 3)), np.zeros((0, 3)), None, FRONT, size=16, background=(0.1, 0.2, 0.3))
    assert nothing.rgb.shape == (16, 16, 3) and np.allclose(nothing.rgb, [0.1, 0.2, 0.3]) and not nothing.mask.any()
    behind = trimesh.creation.box((0.5, 0.5, 0.5))
    behind.apply_translation((0, -4, 0))
    assert not draw(behind).mask.any()


def test_accepts_tensors_and_is_deterministic():
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, requires_grad=True)
    faces, colors = torch.tensor(np.asarray(mesh.faces)), torch.rand(len(vertices), 3).bfloat16()
    first, second = (render_mesh(vertices, faces, colors, FRONT).rgb for _ in range(2))
    assert np.array_equal(first, second) and first.dtype == np.float32


# --------------------------------------------------------------------------------------------------- gaussians


def test_one_round_gaussian_has_its_analytic_profile():
    image = render_gaussians(cloud([[0.0, 0.0, 0.0]], sigma=0.05, opacity=0.8), FRONT, background=0.0)
    variance = (FRONT.focal * 0.05 / 2.0) ** 2 + BLUR_PX2
    square = ((pixel_grid(128) - 64) ** 2).sum(axis=-1)
    expected = 0.8 * np.exp(-0.5 * square / variance)
    assert np.abs(image.alpha - expected).max() < 1.01 / 255
    assert np.abs(image.rgb - expected[..., None] * [1, 0, 0]).max() < 1.01 / 255


def test_gaussians_and_meshes_have_the_same_projection():
    camera = Camera.orbit(35.0, 25.0, size=96)
    for offset in ((0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3)):
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.08)
        mesh.apply_translation(offset)
        where = [np.argwhere(image).mean(axis=0) for image in (draw(mesh, camera=camera).mask,)]
        alpha = render_gaussians(cloud([offset], sigma=0.04), camera).alpha
        where.append(np.argwhere(alpha > 0.3).mean(axis=0))
        assert np.abs(where[0] - where[1]).max() < 0.6, offset


def test_rotation_turns_the_long_axis():
    # Long along local x, turned by 30 degrees about y (towards -z): w = cos 15, y = sin 15.
    half = np.radians(15.0)
    long = cloud([[0.0, 0, 0]], sigma=(0.15, 0.01, 0.01), rotation=(np.cos(half), 0, np.sin(half), 0))
    v, u = np.nonzero(render_gaussians(long, FRONT).alpha > 0.2)
    slope = np.polyfit(u, v, 1)[0]
    assert np.isclose(np.degrees(np.arctan(slope)), 30.0, atol=3.0)  # x -> (cos 30, 0, -sin 30): right and down


def test_nearer_gaussian_covers_the_farther_one():
    both = cloud([[0, 0.3, 0], [0, -0.3, 0]], sigma=0.1, opacity=1.0)
    both._features_dc[0] = (np.array([0.0, 1.0, 0.0]) - 0.5) / SH_C0
    for order in ([0, 1], [1, 0]):
        parts = (both.get_xyz, both.get_scaling, both.get_rotation, both.get_opacity, both._features_dc)
        rgb = render_gaussians(GaussianCloud(*(part[order] for part in parts)), FRONT, background=0.0).rgb
        assert np.allclose(rgb[64, 64], [0.99, 0.0099, 0.0], atol=3e-3)


@pytest.mark.parametrize("at_once", [1_500_000, 300])
def test_gaussian_renderer_equals_a_loop_over_pixels(monkeypatch, at_once):
    monkeypatch.setattr(
        "fast_sam3d.render.renderer.FRAGMENTS_AT_ONCE", at_once
    )  # several batches must give the same image
    random = np.random.default_rng(2)
    count = 40
    quaternion = random.normal(size=(count, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    shape = cloud(
        random.uniform(-0.4, 0.4, (count, 3)),
        sigma=random.uniform(0.01, 0.12, (count, 3)),
        rgb=random.uniform(0, 1, (count, 3)),
        opacity=random.uniform(0.1, 1.0, (count, 1)),
        rotation=quaternion,
    )
    camera = Camera.orbit(20.0, 30.0, distance=1.8, size=32)
    image = render_gaussians(shape, camera, background=(0.2, 0.4, 0.6))

    pixels, depth = camera.project(shape.get_xyz)
    expected, passed = np.zeros((32, 32, 3)), np.ones((32, 32))
    for i in np.argsort(depth):
        turn = trimesh.transformations.quaternion_matrix(shape.get_rotation[i])[:3, :3]
        world = turn @ np.diag(shape.get_scaling[i].astype(float) ** 2) @ turn.T
        local = shape.get_xyz[i] @ camera.rotation + camera.translation
        x, y, z = local
        jacobian = -camera.focal * np.array([[1 / z, 0, -x / z**2], [0, 1 / z, -y / z**2]]) @ camera.rotation.T
        conic = np.linalg.inv(jacobian @ world @ jacobian.T + BLUR_PX2 * np.eye(2))
        away = pixel_grid(32) - pixels[i]
        alpha = min(float(shape.get_opacity[i, 0]), 0.99) * np.exp(
            -0.5 * np.einsum("hwi,ij,hwj->hw", away, conic, away)
        )
        alpha = np.where(alpha >= 1 / 255, alpha, 0.0)
        expected += (passed * alpha)[..., None] * shape.rgb[i]
        passed *= 1 - alpha
    expected += passed[..., None] * [0.2, 0.4, 0.6]
    assert np.abs(image.rgb - expected).max() < 0.006 and np.abs(image.alpha - (1 - passed)).max() < 0.006


def test_no_gaussian_in_front_of_the_camera():
    image = render_gaussians(cloud([[0, -5.0, 0]]), FRONT, size=16, background=0.5)
    assert np.allclose(image.rgb, 0.5) and not image.alpha.any()
