"""Pointmaps in other frames, of other sizes and in other files: each is read right, or refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.axes import SIGNS, seen_axes
from fast_sam3d.inputs.pointmaps import read_pointmap

SIZE = (60, 80)
FOCAL = 1.1  # in units of the width
OPENCV, OPENGL = np.float32([-1, -1, 1]), np.float32([-1, 1, -1])


@pytest.fixture
def points() -> np.ndarray:
    """[60, 80, 3] float32 in PyTorch3D's frame: a bumpy wall behind a nearer box."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    depth = 3 + 0.3 * np.sin(u / 7) * np.cos(v / 5)
    depth[20:45, 30:60] = 1.5
    x, y = -(u - 40) / (FOCAL * 80), -(v - 30) / (FOCAL * 80)
    return np.stack([x * depth, y * depth, depth], -1).astype(np.float32)


def read(tmp_path: Path, axes: str = "auto", size: tuple[int, int] = SIZE, **arrays: np.ndarray):
    path = tmp_path / "pointmap.npz"
    np.savez(path, **arrays)
    return read_pointmap(path, size, None, axes)


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("named", [True, False])
def test_every_frame_is_converted(tmp_path, points, name, named):
    stored = points * np.float32(SIGNS[name])
    found = read(tmp_path, name if named else "auto", pointmap=stored)
    np.testing.assert_array_equal(found.points, points)
    assert found.notices == ()


def test_a_recognised_frame_is_logged(tmp_path, points, caplog):
    caplog.set_level(logging.INFO)
    read(tmp_path, pointmap=points * OPENCV)
    assert "+x right, +y down, +z forward" in caplog.text and "opencv" in caplog.text


def test_a_named_frame_takes_precedence_over_the_points_with_a_notice(tmp_path, points):
    found = read(tmp_path, "opencv", pointmap=points)
    np.testing.assert_array_equal(found.points, points * OPENCV)
    assert "--pointmap_axes" in found.notices[0] and "+x left" in found.notices[0]


@pytest.mark.parametrize(("factor", "noted"), [(1, False), (1000, True), (0.001, True), (10, False)])
def test_units_that_are_not_metres_are_noted(tmp_path, points, factor, noted):
    found = read(tmp_path, pointmap=points * np.float32(factor))
    assert any("metres" in notice for notice in found.notices) == noted


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("corner", [False, True])
def test_frames_are_recognised_with_noise_and_holes(points, share, noise, corner):
    rng = np.random.default_rng(0)
    known = rng.random(SIZE) < share
    if corner:  # far from the principal point, where x and y have one sign each
        known[:, 20:] = False
    noisy = points + rng.normal(0, noise, points.shape).astype(np.float32)
    for name, signs in SIGNS.items():
        seen = seen_axes(noisy * np.float32(signs), known)
        assert seen is not None and name in seen.possible
        assert corner or seen.possible == [name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p * np.float32([-1, 1, 1]), "+x right, +y up, +z forward"),  # left-handed
        (lambda p: -p, "+x right, +y down, +z backward"),
        (lambda p: p * np.float32([0, 0, 1]), "not clear"),
        (lambda p: p[..., [1, 0, 2]], "x along the rows"),
        (lambda p: p[..., [0, 2, 1]], "z on both sides of the camera"),  # a frame of the world, z up
    ],
)
def test_unknown_frames_are_refused_with_the_option(tmp_path, points, change, words):
    with pytest.raises(InputError, match="--pointmap_axes") as caught:
        read(tmp_path, pointmap=change(points))
    assert words in str(caught.value)
    assert read(tmp_path, "pytorch3d", pointmap=np.abs(points)).points.shape == points.shape


def test_a_depth_that_marks_unknown_points_is_not_behind_the_camera(tmp_path, points):
    points[:20, :, 2] = -1
    np.testing.assert_array_equal(read(tmp_path, pointmap=points).points[20:], points[20:])


def moge(points: np.ndarray) -> dict[str, np.ndarray]:
    """What MoGe returns, as arrays: OpenCV's axes, infinite and masked where unknown, normalised intrinsics."""
    mask = np.ones(SIZE, bool)
    mask[:10] = False
    matrix = np.array([[FOCAL, 0, 0.5], [0, FOCAL * 80 / 60, 0.5], [0, 0, 1]], np.float32)
    seen = points * OPENCV
    seen[:5] = np.inf
    return {"points": seen, "depth": seen[..., 2].copy(), "mask": mask, "intrinsics": matrix}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kept", [("points", "depth", "mask", "intrinsics"), ("depth", "mask", "intrinsics")])
def test_what_moge_returns_is_read(tmp_path, points, kept, batch):
    found = {name: array[None] if batch else array for name, array in moge(points).items() if name in kept}
    points[:10] = np.nan
    np.testing.assert_allclose(read(tmp_path, **found).points, points, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 0.5, 2])
def test_intrinsics_in_pixels_of_the_depth_or_the_picture(tmp_path, points, scale):
    matrix = np.array([[FOCAL * 80, 0, 40], [0, FOCAL * 80, 30], [0, 0, 1]])
    depth = points[..., 2].copy()
    right = read(tmp_path, depth=depth, K=matrix).points
    np.testing.assert_allclose(right, points, atol=1e-5)
    v, u = (((np.arange(side * scale) + 0.5) / scale).astype(int) for side in SIZE)
    other = depth[v[:, None], u]
    for unit in (1, scale):
        found = read(tmp_path, depth=other, intrinsics=matrix * [[unit], [unit], [1]]).points
        assert np.median(np.abs(found - right)) < 0.03


@pytest.mark.parametrize("factor", [2, 3, 0.5, 0.77])
def test_a_pointmap_of_the_scaled_picture_is_resampled(tmp_path, points, factor):
    rows, columns = (round(side * factor) for side in SIZE)
    v, u = np.arange(rows) * SIZE[0] // rows, np.arange(columns) * SIZE[1] // columns
    found = read(tmp_path, pointmap=points[v[:, None], u]).points
    assert found.shape == points.shape
    assert np.median(np.abs(found - points)) < 0.03
    if factor in (2, 3):
        np.testing.assert_array_equal(found, points)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pointmap": np.ones((80, 60, 3), np.float32)}, "shape [80, 60, 3]"),
        ({"pointmap": np.ones((60, 81, 3), np.float32)}, "shape [60, 81, 3]"),
        ({"pointmap": np.ones((30, 50, 3), np.float32)}, "shape [30, 50, 3]"),
        ({"pointmap": np.ones((3, 60, 80), np.float32)}, "shape [3, 60, 80]"),
        ({"pointmap": np.ones((3, 4, 3), np.float32)}, "shape [3, 4, 3]"),
        ({"pointmap": np.ones((60, 80), np.float32)}, "'intrinsics'"),
        ({"depth": np.ones((60, 80), np.float32), "fov": np.ones(1)}, "name one of them 'pointmap'"),
        ({"depth": np.ones((60, 80), np.uint16), "K": np.eye(3)}, "uint16"),
        ({"depth": np.ones((60, 80), np.float32), "K": np.eye(4)}, "3x3"),
        ({"depth": np.ones((60, 80), np.float32), "K": np.zeros((3, 3))}, "no camera matrix"),
        ({"depth": np.ones((60, 80), np.float32), "K": np.float64([[9, 0, 900], [0, 9, 9], [0, 0, 1]])}, "outside"),
        ({"points": np.ones((60, 80, 3), np.float32), "mask": np.ones((30, 40), bool)}, "mask"),
        ({"points": np.ones((60, 80, 3), np.float32), "mask": np.full((60, 80), "a")}, "dtype"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, words):
    with pytest.raises(InputError) as caught:
        read(tmp_path, **arrays)
    assert words in str(caught.value) and "\n" not in str(caught.value)
