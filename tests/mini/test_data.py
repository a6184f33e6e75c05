"""Procedural objects: signed distances, and the properties of each family."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d.mini.data import samples
from fast_sam3d.mini.data.families import FAMILIES, sample_object
from fast_sam3d.mini.data.sdf import Part, Solid, rotation, segment

SEED = 30_000_000  # unused elsewhere
each_family = pytest.mark.parametrize("family", FAMILIES)


def cloud(count: int, reach: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-reach, reach, (count, 3)).astype(np.float32)


def at(part: Part, *point: float) -> float:
    return float(part.distance(np.array([point], np.float32))[0])


# ------------------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize(
    ("kind", "size", "point", "distance"),
    [
        ("box", (1, 2, 3), (0, 0, 0), -1),
        ("box", (1, 2, 3), (1.5, 0, 0), 0.5),
        ("box", (1, 2, 3), (4, 6, 3), 5),  # from an edge: (3, 4, 0)
        ("box", (1, 2, 3, 0.5), (1, 2, 0), 0.5 * 2**0.5 - 0.5),  # its corner is rounded away
        ("cylinder", (2, 1), (0, 0, 0), -1),
        ("cylinder", (2, 1), (5, 0, 5), 5),
        ("cylinder", (2, 1, 0.5), (0, -2, 0), 0),
        ("cylinder", (2, 1, 0.5), (2, 0, 1), 0.5 * 2**0.5 - 0.5),
        ("cone", (2, 2, 1), (3, 0, 0), 1),  # not tapered: a cylinder
        ("cone", (1, 0, 1), (0.5, 0, 0), 0),
        ("cone", (1, 0, 1), (0.5, 0, -3), 2),
        ("cone", (2, 1, 1), (0.5, 0, 3), 2),  # above its narrow top
        ("cone", (2, 1, 1), (0, 0, 0.9), -0.1),
        ("cone", (1, 3, 1), (3, 0, 0), 0.5**0.5),  # slope 45 degrees
        ("capsule", (0.5, 1), (0, 0, 2), 0.5),
        ("capsule", (0.5, 1), (0.7, 0, 0.3), 0.2),
        ("ellipsoid", (3, 2, 1), (0, 4, 0), 2),
        ("ellipsoid", (3, 2, 1), (0, 0, 0), -1),
        ("ellipsoid", (2, 2, 2), (1, 0, 0), -1),
        ("torus", (2, 0.5), (0, 0, 0), 1.5),
        ("torus", (2, 0.5), (2, 0, 0), -0.5),
        ("arc", (2, 0.5, 0), (0, 2, 0), -0.5),
        ("arc", (2, 0.5, 0), (0, -2, 0), 2),  # on the half that was cut off
    ],
)
def test_signed_distance_of_primitives(
    kind: str, size: tuple[float, ...], point: tuple[float, float, float], distance: float
) -> None:
    assert at(Part(kind, size), *point) == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize("kind", ["cylinder", "cone"])
def test_hollow_solids_are_open_at_the_top_only(kind: str) -> None:
    size = (1.0, 1.0) if kind == "cylinder" else (1.0, 1.0, 1.0)
    cup = Part(kind, size, hollow=0.2)
    assert at(cup, 0, 0, 0.9) > 0 and at(cup, 0, 0, 0) > 0
    assert at(cup, 0, 0, -0.9) == pytest.approx(-0.1, abs=1e-6)
    assert at(cup, 0.9, 0, 0) == pytest.approx(-0.1, abs=1e-6)


def test_box_and_capsule_distances_equal_nearest_points() -> None:
    p = cloud(500, 2)
    half = np.array([0.3, 0.7, 0.5], np.float32)
    outside = np.linalg.norm(p - np.clip(p, -half, half), axis=1)
    assert np.allclose(np.maximum(Part("box", tuple(half)).distance(p), 0), outside, atol=1e-5)

    a, b = np.array([0.1, -0.4, 0.2]), np.array([0.8, 0.5, -0.6])
    line = a + np.linspace(0, 1, 4001)[:, None] * (b - a)
    nearest = np.min(np.linalg.norm(p[:, None] - line[None, ::4], axis=2), axis=1)
    stick = segment((0.1, -0.4, 0.2), (0.8, 0.5, -0.6), 0.15)
    assert np.allclose(stick.distance(p), nearest - 0.15, atol=1e-3)


def test_parts_are_rotated_then_translated() -> None:
    turn = rotation("z", 90)
    part = Part("box", (1, 2, 3), (10, 0, 0), turn)
    assert np.allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-6)
    assert at(part, 12.5, 0, 0) == pytest.approx(0.5, abs=1e-5)  # its long side now lies along x
    assert at(part, 10, 1.5, 0) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        Part("box", (0.2, 0.1, 0.3), (0.1, 0, 0), rotation("z", 90)),
        Part("cylinder", (0.2, 0.3), (0, 0.1, 0), rotation("y", 90)),
        Part("cone", (0.1, 0.3, 0.2)),
        Part("ellipsoid", (0.3, 0.2, 0.1), (0, 0, 0.1)),
        Part("torus", (0.3, 0.05)),
        Part("arc", (0.3, 0.05, 0.0), (0, -0.1, 0)),
        segment((-0.2, 0.1, 0.3), (0.3, -0.3, -0.1), 0.1),
    ],
    ids=lambda part: part.kind,
)
def test_bounds_are_tight(part: Part) -> None:
    p = cloud(200_000)
    inside = p[part.distance(p) < 0]
    low, high = part.bounds()
    assert (inside > low - 1e-5).all() and (inside < high + 1e-5).all()
    assert np.abs(inside.min(0) - low).max() < 0.03 and np.abs(inside.max(0) - high).max() < 0.03


def test_a_solid_is_a_union_with_the_colour_of_the_nearest_part_and_a_unit_normal() -> None:
    parts = [Part("ellipsoid", (1, 1, 1), (-2, 0, 0), colour=0), Part("ellipsoid", (1, 1, 1), (2, 0, 0), colour=1)]
    colours = np.eye(3, dtype=np.float32)
    solid = Solid.fit(parts, colours, None, on_axis=False)
    assert solid.scale == pytest.approx(Solid.LONGEST / 6)
    centre, r = 2 * solid.scale, solid.scale
    p = np.array([[centre + 2 * r, 0, 0], [-centre, 0, 0], [0, 0, 0]], np.float32)
    assert solid.distance(p) == pytest.approx([r, -r, r], abs=1e-5)
    assert np.allclose(solid.colour(p[:2]), colours[[1, 0]])
    direction = np.array([[0.6, 0, 0.8]], np.float32)
    assert np.allclose(solid.normal(np.array([[centre, 0, 0]], np.float32) + r * direction), direction, atol=0.02)


def test_stripes_alternate_along_z_on_their_part_only() -> None:
    parts = [Part("box", (1, 1, 1), colour=0), Part("box", (1, 1, 1), (4, 0, 0), colour=1)]
    colours, other = np.eye(3, dtype=np.float32), np.array([1, 1, 1], np.float32)
    solid = Solid.fit(parts, colours, (1, 0.05, other), on_axis=False)
    left, right = -2 * solid.scale, 2 * solid.scale
    p = np.array([[right, 0, 0.02], [right, 0, 0.07], [right, 0, 0.12], [left, 0, 0.02]], np.float32)
    assert np.allclose(solid.colour(p), [other, colours[1], other, colours[0]])


# -------------------------------------------------------------------------------------------------- families


def test_seeds_reach_every_family() -> None:
    assert len(FAMILIES) >= 10
    assert {sample_object(SEED + k).family for k in range(200)} == set(FAMILIES)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'sofa'.*chair"):
        sample_object(0, "sofa")


@each_family
def test_objects_are_determined_by_their_seed(family: str) -> None:
    p = cloud(300)
    first, again, other = (sample_object(seed, family).solid for seed in (SEED, SEED, SEED + 1))
    assert np.array_equal(first.distance(p), again.distance(p))
    assert np.array_equal(first.colour(p), again.colour(p))
    assert not np.array_equal(first.distance(p), other.distance(p))


@each_family
def test_the_declared_symmetry_holds_in_shape_and_colour(family: str) -> None:
    p = cloud(3000)
    for seed in range(SEED, SEED + 12):
        sampled = sample_object(seed, family)
        n = sampled.symmetry
        d = sampled.solid.distance(p)
        for degrees in (17, 90, 133) if n == 0 else [360 / n * k for k in range(1, n)]:
            q = (p @ rotation("z", degrees).T).astype(np.float32)
            assert np.abs(sampled.solid.distance(q) - d).max() < 0.02
            near = np.abs(d) < 0.02
            if near.any():
                off = np.abs(sampled.solid.colour(q[near]) - sampled.solid.colour(p[near])).max(1) > 1e-3
                assert off.mean() < 0.01  # rounding decides between two parts that meet


@pytest.mark.parametrize("family", ["chair", "mug", "teapot", "figure", "tower", "car", "ladder"])
def test_objects_without_symmetry_differ_from_behind(family: str) -> None:
    p = cloud(3000)
    behind = (p * [-1, -1, 1]).astype(np.float32)
    for seed in range(SEED, SEED + 8):
        sampled = sample_object(seed, family)
        assert sampled.symmetry == 1
        assert np.abs(sampled.solid.distance(behind) - sampled.solid.distance(p)).max() > 1 / 32


@pytest.mark.parametrize("family", ["crate", "table", "bench", "dumbbell", "shelf", "frame"])
def test_objects_are_at_least_as_wide_as_deep(family: str) -> None:
    grid = samples.grid_centres(16)
    for seed in range(SEED, SEED + 20):
        sampled = sample_object(seed, family)
        if sampled.symmetry == 0:
            continue
        inside = grid[sampled.solid.distance(grid) < 0.03]
        assert np.ptp(inside[:, 0]) >= np.ptp(inside[:, 1]) - 1e-6


@each_family
def test_objects_fill_the_cube_and_stay_in_it(family: str) -> None:
    p = samples.grid_centres(40)
    for seed in range(SEED, SEED + 4):
        sampled = sample_object(seed, family)
        inside = p[sampled.solid.distance(p) < 0.5 / 40]
        assert np.abs(inside).max() <= 0.5 * Solid.LONGEST + 0.5 / 40
        assert np.ptp(inside, axis=0).max() > Solid.LONGEST - 0.1
        shape = samples.voxelise(sampled)
        assert 300 < len(shape.coords) < 9000
