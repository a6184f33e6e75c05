"""Eighteen families of objects. Each takes a random generator and returns its parts and its symmetry about z.

Symmetry n means that a turn by 360/n degrees about z maps the object to itself; 0 is a solid of revolution.
Objects face -y where they have a front.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fast_sam3d.mini.data.furniture import Design, Rng, bench, chair, crate, frame, ladder, lamp, shelf, stool, table
from fast_sam3d.mini.data.sdf import Part, Solid, rotation, segment

# Columns are an arc's own x, y, z axes: its kept side (y) points along +x, its ring lies in the xz plane.
HANDLE = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]], np.float32)


def mug(rng: Rng) -> Design:
    r, h, w = rng.uniform(0.25, 0.4), rng.uniform(0.25, 0.5), rng.uniform(0.03, 0.06)
    if rng.random() < 0.5:
        body = Part("cylinder", (r, h, 0.0), (0, 0, 0), hollow=w)
        edge = r
    else:
        top = r * rng.uniform(1.0, 1.35)
        body = Part("cone", (r, top, h), (0, 0, 0), hollow=w)
        edge = (r + top) / 2
    ring, tube = h * rng.uniform(0.45, 0.7), rng.uniform(0.03, 0.055)
    handle = Part("arc", (ring, tube, 0.0), (edge - w / 2, 0, 0), HANDLE, colour=1)
    return [body, handle], 1


def vase(rng: Rng) -> Design:
    w = rng.uniform(0.03, 0.05)
    r = rng.uniform(0.12, 0.3, 4)
    h = rng.uniform(0.12, 0.3, 3)
    parts, z = [], 0.0
    for k in range(3):
        z += h[k]
        parts.append(Part("cone", (r[k], r[k + 1], h[k]), (0, 0, z), colour=k % 3, hollow=w if k == 2 else 0.0))
        z += h[k]
    if rng.random() < 0.4:
        parts.append(Part("torus", (r[3], 0.035), (0, 0, z), colour=1))
    return parts, 0


def bottle(rng: Rng) -> Design:
    r, h = rng.uniform(0.15, 0.28), rng.uniform(0.3, 0.5)
    neck, nh, sh = r * rng.uniform(0.25, 0.5), rng.uniform(0.1, 0.25), rng.uniform(0.06, 0.16)
    parts = [Part("cylinder", (r, h, 0.03), (0, 0, h)), Part("cone", (r * 0.97, neck, sh), (0, 0, 2 * h + sh - 0.02))]
    z = 2 * h + 2 * sh
    parts.append(Part("cylinder", (neck, nh), (0, 0, z + nh - 0.05), colour=0))
    parts.append(Part("cylinder", (neck * 1.35, 0.05, 0.01), (0, 0, z + 2 * nh - 0.05), colour=1))
    if rng.random() < 0.5:
        parts.append(Part("cylinder", (r * 1.03, h * 0.45), (0, 0, h), colour=2))
    return parts, 0


def dumbbell(rng: Rng) -> Design:
    half, r = rng.uniform(0.3, 0.5), rng.uniform(0.035, 0.07)
    flat = rotation("y", 90)
    parts = [Part("cylinder", (r, half), (0, 0, 0), flat)]
    for k in range(int(rng.integers(1, 4))):
        weight, t = rng.uniform(0.12, 0.3), rng.uniform(0.03, 0.06)
        for s in (-1, 1):
            parts.append(Part("cylinder", (weight, t, 0.01), (s * (half - 0.02 - 0.11 * k), 0, 0), flat, 1 + k % 2))
    return parts, 2


def rings(rng: Rng) -> Design:
    n, tube = int(rng.integers(1, 4)), rng.uniform(0.05, 0.1)
    parts, z = [], 0.0
    radius = rng.uniform(0.3, 0.4)
    for k in range(n):
        parts.append(Part("torus", (radius, tube), (0, 0, z), colour=k % 3))
        z += tube * 1.8
        radius *= rng.uniform(0.65, 0.95)
    if rng.random() < 0.5:
        parts.append(Part("cylinder", (tube * 0.9, z / 2 + 0.1), (0, 0, z / 2), colour=2))
        parts.append(Part("cylinder", (0.38, 0.03), (0, 0, -tube), colour=1))
    return parts, 0


def tower(rng: Rng) -> Design:
    # All blocks are longer along x, and the stack leans towards +y: the yaw is visible in a picture.
    count, lean = int(rng.integers(3, 6)), rng.uniform(0.1, 0.22)
    parts, z = [], 0.0
    for k in range(count):
        h = rng.uniform(0.08, 0.2)
        x = rng.uniform(0.12, 0.28) if k else rng.uniform(0.22, 0.3)
        y = x * rng.uniform(0.4, 0.75)
        at = (float(rng.uniform(-0.05, 0.05)) if k else 0.0, lean * k / (count - 1), z + h)
        kind = rng.random() if k else 0.0
        if kind < 0.6:
            turn = float(rng.uniform(-15, 15)) if k else 0.0
            parts.append(Part("box", (x, y, h, 0.015), at, rotation("z", turn), k % 3))
        elif kind < 0.85:
            parts.append(Part("cylinder", (x * 0.8, h, 0.01), at, colour=k % 3))
        else:
            parts.append(Part("ellipsoid", (x, y, h), at, colour=k % 3))
        z += 2 * h - 0.005
    return parts, 1


def car(rng: Rng) -> Design:
    length, w, h = rng.uniform(0.8, 1.2), rng.uniform(0.35, 0.5), rng.uniform(0.12, 0.2)
    wheel = rng.uniform(0.1, 0.16)
    cabin = length * rng.uniform(0.2, 0.32)
    shift = rng.uniform(-0.14, -0.04) * length  # never in the middle, where front and back would look the same
    parts = [Part("box", (w / 2, length / 2, h, 0.05), (0, 0, wheel + h * 0.8))]
    parts.append(Part("box", (w * 0.43, cabin, h * 0.9, 0.05), (0, -shift, wheel + h * 2.2), colour=2))
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = (sx * w / 2, sy * length * 0.31, wheel)
            parts.append(Part("cylinder", (wheel, 0.05, 0.01), at, rotation("y", 90), colour=1))
    if rng.random() < 0.3:
        parts.append(Part("box", (w * 0.5, 0.03, 0.02), (0, length * 0.47, wheel + h * 2.4), colour=1))
        foot, head = (length * 0.45, wheel + h), (length * 0.47, wheel + h * 2.4)
        parts += [segment((s * w * 0.35, *foot), (s * w * 0.35, *head), 0.03, 1) for s in (-1, 1)]
    return parts, 1


def figure(rng: Rng) -> Design:
    r = [rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.22), rng.uniform(0.11, 0.16)]
    z = [r[0], 0.0, 0.0]
    z[1] = z[0] + r[0] * 0.8 + r[1] * 0.7
    z[2] = z[1] + r[1] * 0.8 + r[2] * 0.7
    parts = [Part("ellipsoid", (r[k], r[k], r[k]), (0, 0, z[k]), colour=0 if k < 2 else 2) for k in range(3)]
    lift = rng.uniform(-0.15, 0.25)
    for s in (-1, 1):
        reach = r[1] + rng.uniform(0.1, 0.25)
        parts.append(segment((s * r[1] * 0.7, 0, z[1]), (s * reach, -0.05, z[1] + lift), rng.uniform(0.03, 0.05), 1))
    parts.append(Part("cone", (0.05, 0.012, 0.08), (0, -r[2] - 0.05, z[2]), rotation("x", 90), 1))
    if rng.random() < 0.5:
        parts.append(Part("cylinder", (r[2] * 1.3, 0.02), (0, 0, z[2] + r[2] * 0.75), colour=1))
        parts.append(Part("cylinder", (r[2] * 0.8, 0.08), (0, 0, z[2] + r[2] * 0.75 + 0.09), colour=1))
    return parts, 1


def teapot(rng: Rng) -> Design:
    r, h = rng.uniform(0.28, 0.38), rng.uniform(0.2, 0.32)
    parts = [Part("ellipsoid", (r, r, h), (0, 0, h))]
    parts.append(Part("cylinder", (r * 0.45, 0.03, 0.01), (0, 0, 2 * h - 0.01), colour=1))
    parts.append(Part("ellipsoid", (0.05, 0.05, 0.05), (0, 0, 2 * h + 0.06), colour=1))
    parts.append(Part("arc", (h * rng.uniform(0.5, 0.75), rng.uniform(0.03, 0.05), 0.0), (r * 0.92, 0, h), HANDLE, 2))
    tip = (-r - rng.uniform(0.15, 0.3), 0.0, h * rng.uniform(1.4, 1.9))
    parts.append(segment((-r * 0.8, 0, h * 0.8), tip, rng.uniform(0.04, 0.06), 2))
    return parts, 1


FAMILIES: dict[str, Callable[[Rng], Design]] = {
    f.__name__: f
    for f in (
        chair, stool, table, lamp, mug, vase, bottle, shelf, bench, ladder,
        dumbbell, rings, tower, car, figure, frame, teapot, crate,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Sampled:
    """One object: its solid, family name and symmetry about z (see the module)."""

    solid: Solid
    family: str
    symmetry: int


def sample_object(seed: int, family: str | None = None) -> Sampled:
    """The object of a seed; the same seed always gives the same object.

    Args:
        seed: any non-negative integer.
        family: a key of `FAMILIES`; by default the seed picks it.

    Raises:
        ValueError: unknown family.
    """
    rng = np.random.default_rng([20260211, seed])
    names = list(FAMILIES)
    picked = names[int(rng.integers(len(names)))]
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; one of {', '.join(names)}")
    name = family or picked
    parts, symmetry = FAMILIES[name](rng)
    colours = rng.uniform(0.08, 0.95, (3, 3)).astype(np.float32)
    stripes = None
    if rng.random() < 0.25:
        other = rng.uniform(0.08, 0.95, 3).astype(np.float32)
        stripes = (int(rng.integers(3)), float(rng.uniform(0.1, 0.25)), other)
    return Sampled(Solid.fit(parts, colours, stripes, on_axis=symmetry != 1), name, symmetry)
