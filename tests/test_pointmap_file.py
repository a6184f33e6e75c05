"""Pointmaps beside a picture or named: used, cast, refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fast_sam3d.errors import InputError
from fast_sam3d.images import load_object


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


def test_named_pointmap_wins_and_doubles_are_cast(object_folder, tmp_path, points):
    np.savez_compressed(object_folder / "pointmap.npz", pointmap=points)
    np.save(tmp_path / "mine.npy", points.astype(np.float64) + 1)
    given = load_object(object_folder, pointmap=str(tmp_path / "mine.npy"))
    np.testing.assert_allclose(given.pointmap[1:], points[1:] + 1)
    assert given.pointmap_path == tmp_path / "mine.npy"


def test_other_convention_is_pointed_out(object_folder, points, caplog):
    np.save(object_folder / "pointmap.npy", points * np.float32([-1, -1, 1]))
    load_object(object_folder)
    assert "another convention" in caplog.text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: p[:-1], "shape [39, 48, 3]"),
        (lambda p: p[..., 2], "shape [40, 48]"),
        (lambda p: p.astype(np.int32), "int32"),
        (lambda p: p * np.nan, "no point on the object"),
        (lambda p: -p, "+z forward"),
        (lambda p: p.astype(object), "object"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pointmaps_that_do_not_fit(object_folder, points, change, word, kind):
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
