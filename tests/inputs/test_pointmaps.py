"""Finding, casting and refusing pointmaps."""

from __future__ import annotations

import contextlib
import logging
import warnings

import numpy as np
import pytest

from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import load_object
from fast_sam3d.inputs.pointmaps import read_pointmap


def refused(*words: str, **arguments: object) -> None:
    with pytest.raises(InputError) as caught:
        load_object(**arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.fixture
def points() -> np.ndarray:
    """[40, 48, 3] float32: a plane at z = 2 in PyTorch3D's camera frame, one corner unknown."""
    y, x = np.mgrid[:40, :48]
    grid = np.stack([(23.5 - x) / 24, (19.5 - y) / 24, np.full((40, 48), 2.0)], -1).astype(np.float32)
    grid[0, 0] = np.inf
    return grid


def test_pointmap_beside_the_picture_is_used(object_folder, points, caplog):
    caplog.set_level(logging.INFO, "fast_sam3d")
    np.savez_compressed(object_folder / "pointmap.npz", pointmap=points)
    given = load_object(object_folder)
    assert given.pointmap is not None
    assert given.pointmap.dtype == np.float32
    assert np.isnan(given.pointmap[0, 0]).all()
    np.testing.assert_array_equal(given.pointmap[1:], points[1:])
    assert "pointmap.npz" in caplog.text
    assert "convention" not in caplog.text
    assert load_object(object_folder, pointmap="none").pointmap is None


def test_explicit_pointmap_takes_precedence_and_float64_is_cast(object_folder, tmp_path, points):
    np.savez_compressed(object_folder / "pointmap.npz", pointmap=points)
    np.save(tmp_path / "mine.npy", points.astype(np.float64) + 1)
    given = load_object(object_folder, pointmap=str(tmp_path / "mine.npy"))
    np.testing.assert_allclose(given.pointmap[1:], points[1:] + 1)
    assert given.pointmap_path == tmp_path / "mine.npy"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: p[:-1], "shape [39, 48, 3]"),
        (lambda p: p[..., 2], "shape [40, 48]"),
        (lambda p: p.astype(np.int32), "int32"),
        (lambda p: p * np.nan, "no known point on the object"),
        (lambda p: -p, "+x right, +y down, +z backward"),
        (lambda p: p.astype(object), "object"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_invalid_pointmaps_are_refused(object_folder, points, change, word, kind):
    points[0, 0] = 1
    with np.errstate(invalid="ignore"):
        changed = change(points)
    if kind == "npy":
        np.save(object_folder / "pointmap.npy", changed)
    else:
        np.savez(object_folder / "pointmap.npz", pointmap=changed)
    refused("pointmap", word, image_path=object_folder)


@pytest.mark.parametrize("name", ["pointmap.npy", "pointmap.npz"])
def test_damaged_pointmaps(object_folder, points, name):
    np.save(object_folder / "pointmap.npy", points) if name.endswith("npy") else np.savez(
        object_folder / "pointmap.npz", pointmap=points
    )
    content = (object_folder / name).read_bytes()
    for cut in (0, 60, len(content) // 2):
        (object_folder / name).write_bytes(content[:cut])
        refused(name, image_path=object_folder)


def test_missing_pointmap(object_folder):
    refused("no pointmap at", image_path=object_folder, pointmap="nowhere.npz")
    for name in ("~nobody-of-that-name/a.npz", "x" * 5000):
        refused("cannot be read", "--pointmap", image_path=object_folder, pointmap=name)


@pytest.mark.parametrize("name", ["pointmap.npy", "packed/pointmap.npz", "plain/pointmap.npz"])
def test_flipped_bytes_are_read_or_rejected(object_folder, points, disc, name):
    """numpy answers with zlib.error, TokenError, SyntaxError, RuntimeError and more."""
    path = object_folder / name
    path.parent.mkdir(exist_ok=True)
    {"pointmap.npy": np.save, "packed": np.savez_compressed, "plain": np.savez}[name.split("/")[0]](path, points)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(min(len(content), 300))] = rng.integers(256)
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(InputError):
                read_pointmap(path, (40, 48), disc)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1e30, -1e30, 1e7])
def test_points_that_are_too_far_are_unknown(object_folder, points, caplog, kind, value):
    points[5] = value
    np.save(object_folder / "pointmap.npy", points.astype(kind))
    given = load_object(object_folder)
    assert np.isnan(given.pointmap[5]).all()
    np.testing.assert_array_equal(given.pointmap[6:], points[6:])
    assert "48 points" in caplog.text
    np.save(object_folder / "pointmap.npy", np.full_like(points, value))
    refused("no known point on the object", image_path=object_folder)


@pytest.mark.parametrize("hole", [(0, 0, 0), (0.3, 0.2, 0), (0.3, 0.2, -1)])
def test_points_without_a_depth_are_unknown(object_folder, points, hole):
    points[10:20] = np.nan
    np.save(object_folder / "pointmap.npy", points)
    right = load_object(object_folder).pointmap
    points[10:20] = hole
    np.save(object_folder / "pointmap.npy", points)
    np.testing.assert_array_equal(load_object(object_folder).pointmap, right)


def test_too_few_known_points_are_an_error(object_folder, points):
    lonely = np.full_like(points, np.nan)
    lonely[20, 22] = points[20, 22]
    np.save(object_folder / "pointmap.npy", lonely)
    refused("has 1 known points for the object's 305 pixels", "--no_pointmap", image_path=object_folder)
    lonely[20, 20:24] = points[20, 20:24]
    np.save(object_folder / "pointmap.npy", lonely)
    assert load_object(object_folder).pointmap is not None
