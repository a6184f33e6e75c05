"""Pictures of procedural objects: cameras, sphere tracing, floors, occluders and poses."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d.mini.data import pictures, samples, views
from fast_sam3d.mini.data.families import FAMILIES, sample_object
from fast_sam3d.mini.data.sdf import Part, Solid
from fast_sam3d.model.preprocess import crop_box, crop_grid

SEED = 30_000_000  # unused elsewhere
# Canonical units. A hit counts from `views.HIT` on; an ellipsoid's distance is an estimate, so rays enter it a little.
SLACK = 0.01
each_family = pytest.mark.parametrize("family", FAMILIES)


def test_default_view_shows_the_front_with_x_right_and_z_up() -> None:
    R = views.object_rotation(0, 0, 0)
    assert np.allclose(np.eye(3) @ R, [[-1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-6)  # +x camera is left
    up = views.object_rotation(30, 20, 0)[2]
    assert up[2] < 0 < up[1]  # from above: what is higher is nearer
    for angles in ((30, 20, 5), (-170, -12, -4)):
        R = views.object_rotation(*angles)
        assert np.allclose(R @ R.T, np.eye(3), atol=1e-6) and np.linalg.det(R) == pytest.approx(1, abs=1e-5)


def crop_of(camera: views.ViewCamera, side: int) -> np.ndarray:
    centre = camera.project(np.zeros((1, 3), np.float32))[0]
    return crop_grid(centre, camera.focal * camera.size / float(camera.t[2]) * 1.1, side)


@each_family
def test_sphere_tracing_equals_marching_in_small_steps(family: str) -> None:
    missed, drawn, total = 0, 0, 0
    for seed in (SEED, SEED + 1):
        sampled = sample_object(seed, family)
        camera = views.sample_camera(np.random.default_rng(seed), sampled.symmetry)
        uv = crop_of(camera, 32)
        hit, where = views.trace(sampled.solid, camera, uv)
        origin = -camera.t @ camera.R.T / camera.size
        ray = np.concatenate([-uv / camera.focal, np.ones((len(uv), 1))], 1) @ camera.R.T
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        # From in front of the bounding ball to behind it.
        depth = (-(ray @ origin))[:, None] + np.linspace(-0.85, 0.85, 600)
        p = origin + depth[..., None] * ray[:, None]
        d = sampled.solid.distance(p.reshape(-1, 3).astype(np.float32)).reshape(depth.shape)
        inside = (d < 0).any(1)
        first = depth[np.arange(len(uv)), (d < 0).argmax(1)]
        both = hit & inside
        behind = ((where - origin) * ray).sum(1)[both] - first[both]
        assert (behind > SLACK).mean() < 0.01  # no surface is passed through
        assert not (hit & (d.min(1) > 0.01)).any()  # no hit in empty space
        missed, drawn, total = missed + int((inside & ~hit).sum()), drawn + int(both.sum()), total + int(inside.sum())
    assert total > 100 and missed <= 0.02 * total


@each_family
def test_hits_lie_on_the_surface_and_project_to_their_pixel(family: str) -> None:
    sampled = sample_object(SEED, family)
    camera = views.sample_camera(np.random.default_rng(3), sampled.symmetry)
    uv = crop_of(camera, 40)
    hit, where = views.trace(sampled.solid, camera, uv)
    assert hit.sum() > 20
    assert np.abs(sampled.solid.distance(where[hit])).max() < SLACK
    assert np.abs(camera.project(where[hit]) - uv[hit]).max() < 1e-4


@each_family
def test_inverse_pose_maps_visible_points_onto_the_object(family: str) -> None:
    sampled = sample_object(SEED, family)
    rng = np.random.default_rng(4)
    camera = views.sample_camera(rng, sampled.symmetry)
    uv = crop_of(camera, 48)
    picture = views.render(sampled, camera, views.Backdrop.sample(rng), None, uv)
    canonical = (picture.points[picture.mask] - camera.t) @ camera.R.T / camera.size
    assert np.abs(sampled.solid.distance(canonical.astype(np.float32))).max() < SLACK
    known = np.isfinite(picture.points[:, 0])
    assert np.abs(-picture.points[known, :2] / picture.points[known, 2:] * camera.focal - uv[known]).max() < 1e-4


def test_floor_lies_below_the_object_and_does_not_occlude_it() -> None:
    sampled = sample_object(SEED, "chair")
    camera = views.ViewCamera(views.object_rotation(20, 25, 0), np.float32([0, 0, 3]), 1.0, 1.2, np.float32([0, 0, -1]))
    uv = pictures.image_grid(48, 48)
    sky, floor = (
        views.render(sampled, camera, views.Backdrop(np.ones(3, np.float32), np.ones(3, np.float32), on), None, uv)
        for on in (False, True)
    )
    assert np.array_equal(sky.mask, floor.mask) and np.array_equal(sky.rgb[sky.mask], floor.rgb[sky.mask])
    assert np.isnan(sky.points[~sky.mask]).all()
    ground = floor.points[~floor.mask & np.isfinite(floor.points[:, 0])]
    heights = (ground - camera.t) @ camera.R.T[:, 2]
    assert len(ground) > 500 and heights == pytest.approx(np.full(len(ground), -0.47), abs=1e-3)


def test_occluder_is_in_front_and_removed_from_the_mask() -> None:
    sampled = sample_object(SEED, "vase")
    rng = np.random.default_rng(5)
    camera = views.sample_camera(rng, sampled.symmetry)
    uv = crop_of(camera, 48)
    backdrop = views.Backdrop.sample(rng)
    free = views.render(sampled, camera, backdrop, None, uv)
    occluder = views.sample_occluder(rng, uv[free.mask])
    assert occluder is not None
    picture = views.render(sampled, camera, backdrop, occluder, uv)
    over = occluder.covers(uv)
    assert 0.05 < over[free.mask].mean() < 0.6
    assert np.array_equal(picture.mask, free.mask & ~over)
    assert np.allclose(picture.rgb[over], occluder.colour)
    assert np.allclose(picture.points[over, 2], camera.t[2] * occluder.depth_share, rtol=1e-5)


def test_range_of_occluded_shares() -> None:
    silhouette = pictures.image_grid(24, 24)
    rng = np.random.default_rng(9)
    drawn = [views.sample_occluder(rng, silhouette) for _ in range(200)]
    hidden = [occluder.covers(silhouette).mean() for occluder in drawn if occluder is not None]
    assert len(hidden) > 150
    assert 0.05 < min(hidden) < 0.15 and 0.4 < max(hidden) < 0.6


@pytest.mark.parametrize("symmetry", [0, 1, 2, 5])
def test_cameras_cover_the_distinguishable_yaw_range(symmetry: int) -> None:
    rng = np.random.default_rng(6)
    yaws, away = [], []
    for _ in range(300):
        camera = views.sample_camera(rng, symmetry)
        forward = camera.R[:, 2]  # the camera's direction in the object's frame; yaw is its turn about z
        yaws.append(np.degrees(np.arctan2(-forward[0], forward[1])))
        away.append(np.abs(camera.project(np.zeros((1, 3), np.float32))).max())
        assert camera.t[2] >= 1.19 * camera.size
        assert np.linalg.norm(camera.light) == pytest.approx(1, abs=1e-5) and camera.light[2] < 0
    reach = 180 / symmetry if symmetry else 0
    assert np.abs(yaws).max() <= reach + 6  # a roll turns what is seen from above a little
    assert np.abs(yaws).max() >= 0.9 * reach
    assert max(away) < 0.5


def test_crops_are_padded_squares_of_pixel_centres() -> None:
    centre, side = crop_box(np.array([[0.1, 0.0], [0.3, 0.1]], np.float32))
    assert centre == pytest.approx([0.2, 0.05]) and side == pytest.approx(0.2 * 1.2)
    grid = crop_grid(centre, side, 4)
    assert grid[0] == pytest.approx(centre - 0.375 * side, abs=1e-6)
    assert grid[1] - grid[0] == pytest.approx([side / 4, 0], abs=1e-6)  # u runs first
    assert pictures.image_grid(2, 4)[[0, 1, 4]] == pytest.approx(
        np.array([[-1.5, -0.5], [-0.5, -0.5], [-1.5, 0.5]]) / 4
    )


def test_nearer_of_two_objects_is_visible() -> None:
    ball = [Part("ellipsoid", (1, 1, 1))]
    red, blue = (np.tile(np.float32(c), (3, 1)) for c in ([1, 0, 0], [0, 0, 1]))
    placed = []
    for colours, t in ((red, (0, 0, 3)), (blue, (-0.3, 0, 2.2))):
        sampled = sample_object(SEED)
        sampled = type(sampled)(Solid.fit(ball, colours, None, on_axis=True), "ball", 0)
        placed.append(
            pictures.Placed(
                sampled,
                views.ViewCamera(views.object_rotation(0, 10, 0), np.float32(t), 1.0, 1.5, np.float32([0, 0, -1])),
            )
        )
    backdrop = views.Backdrop(np.ones(3, np.float32), np.ones(3, np.float32), False)
    photos = [pictures.take(order, backdrop, None, 40, 60) for order in (tuple(placed), tuple(placed[::-1]))]
    photo = photos[0]
    assert photo.rgb.shape == (40, 60, 3) and photo.points.shape == (40, 60, 3)
    alone = pictures.take((placed[0],), backdrop, None, 40, 60)
    assert photo.mask(1).sum() > photo.mask(0).sum() > 0
    assert not (photo.mask(0) & ~alone.mask(0)).any() and alone.mask(0).sum() > photo.mask(0).sum()
    assert (photo.rgb[photo.mask(0)].argmax(1) == 0).all() and (photo.rgb[photo.mask(1)].argmax(1) == 2).all()
    assert np.array_equal(photos[1].mask(0), photo.mask(1)) and np.array_equal(photos[1].mask(1), photo.mask(0))
    for index, (sampled, camera) in enumerate((p.sampled, p.camera) for p in photo.placed):
        canonical = (photo.points[photo.mask(index)] - camera.t) @ camera.R.T / camera.size
        assert np.abs(sampled.solid.distance(canonical.astype(np.float32))).max() < 2 * views.HIT


def test_evaluation_pictures_are_reproducible_and_show_the_object() -> None:
    first, shape = pictures.photograph(SEED, 96)
    again, _ = pictures.photograph(SEED, 96)
    assert np.array_equal(first.rgb, again.rgb) and np.array_equal(first.points, again.points, equal_nan=True)
    assert first.mask().sum() >= 150
    sampled, camera = first.placed[0].sampled, first.placed[0].camera
    assert np.array_equal(shape.coords, samples.voxelise(sampled).coords)
    outline = pictures.outline(sampled, camera, shape)
    v, u = np.nonzero(first.mask())
    seen = (np.stack([u, v], 1) + 0.5) / 96 - 0.5
    assert (seen.min(0) > outline.min(0) - 0.05).all() and (seen.max(0) < outline.max(0) + 0.05).all()
