"""Where points of the world fall in the picture."""

import numpy as np
import pytest

from fast_sam3d.geometry.camera import Camera


def test_orbit_is_not_mirrored():
    camera = Camera.orbit(0.0, 0.0, distance=2.0, size=100)  # stands at y = -2 and looks along +y
    pixels, depth = camera.project([[0, 0, 0], [0.3, 0, 0], [0, 0, 0.3], [0, -0.5, 0]])
    assert np.allclose(pixels[0], 50)
    assert pixels[1, 0] > 60 and np.isclose(pixels[1, 1], 50)  # world +x is on the right
    assert pixels[2, 1] < 40 and np.isclose(pixels[2, 0], 50)  # world +z is at the top (small v)
    assert np.allclose(depth, [2, 2, 2, 1.5])


def test_orbit_azimuth_90_is_on_plus_x():
    pixels, depth = Camera.orbit(90.0, 0.0, distance=2.0).project([[0.5, 0, 0], [0, 0.3, 0]])
    assert np.isclose(depth[0], 1.5)
    assert pixels[1, 0] > 128  # from +x, world +y is on the right


def test_axes_are_pytorch3d():
    rotation = Camera.orbit(25.0, 35.0).rotation
    left, up, forward = rotation.T
    assert np.allclose(rotation.T @ rotation, np.eye(3)) and np.isclose(np.linalg.det(rotation), 1.0)
    assert np.allclose(np.cross(left, up), forward) and up[2] > 0 and forward[2] < 0


def test_field_of_view():
    camera = Camera.look_at((0, -1, 0), fov_deg=90.0, size=64)
    assert np.allclose(camera.project([[1.0, 0.0, 0.0]])[0], [64, 32])  # 45 degrees off the axis: the picture's edge


def test_looking_straight_down_is_defined():
    camera = Camera.look_at((0, 0, 2))
    assert np.allclose(camera.rotation.T @ camera.rotation, np.eye(3))
    with pytest.raises(ValueError, match="same point"):
        Camera.look_at((0, 0, 0))


def test_from_pointmap_recovers_the_camera():
    truth = Camera(np.eye(3), np.zeros(3), 70.0, (30.0, 22.0), (40, 60))
    v, u = np.meshgrid(np.arange(40) + 0.5, np.arange(60) + 0.5, indexing="ij")
    depth = 2 + np.sin(u / 7) + v / 30
    points = np.stack([(30 - u) / 70 * depth, (22 - v) / 70 * depth, depth], axis=-1).astype(np.float32)
    points[10:30, 5:50] = np.nan
    camera = Camera.from_pointmap(points)
    assert camera.size == (40, 60)
    assert np.isclose(camera.focal, truth.focal, rtol=1e-4) and np.allclose(
        camera.principal, truth.principal, atol=0.01
    )


@pytest.mark.parametrize("points", [np.full((8, 8, 3), np.nan), -np.ones((8, 8, 3)), np.ones((8, 8, 3))])
def test_from_pointmap_rejects_points_that_fit_no_camera(points):
    with pytest.raises(ValueError, match="pointmap"):
        Camera.from_pointmap(points)


def test_crop_and_resize_transform_pixels_like_the_image():
    camera = Camera.orbit(10.0, size=200)
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
    before = camera.project(points)[0]
    after = camera.cropped(30, 60, 100, 100).resized(50).project(points)[0]
    assert np.allclose(after, (before - [30, 60]) / 2)
    assert Camera(np.eye(3), np.zeros(3), 1.0, (0, 0), (30, 60)).resized(20).size == (10, 20)


def test_invalid_values_are_rejected():
    with pytest.raises(ValueError, match="positive"):
        Camera(np.eye(3), np.zeros(3), 0.0, (0, 0), (8, 8))
    with pytest.raises(ValueError, match=r"\[3, 3\]"):
        Camera(np.eye(4), np.zeros(3), 1.0, (0, 0), (8, 8))
