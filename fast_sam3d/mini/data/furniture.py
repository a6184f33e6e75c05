"""Families of furniture; see `families`."""

from __future__ import annotations

import numpy as np

from fast_sam3d.mini.data.sdf import Part, segment

Rng = np.random.Generator
Design = tuple[list[Part], int]
"""Parts, and the symmetry about z."""


def _legs(rng: Rng, x: float, y: float, top: float, r: float, splay: float, colour: int, square: bool) -> list[Part]:
    legs = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            if square:
                legs.append(Part("box", (r, r, top / 2), (sx * x, sy * y, top / 2), colour=colour))
            else:
                foot = (sx * x * (1 + splay), sy * y * (1 + splay), r)
                legs.append(segment((sx * x, sy * y, top), foot, r, colour))
    return legs


def chair(rng: Rng) -> Design:
    w, d, h = rng.uniform(0.35, 0.55), rng.uniform(0.35, 0.5), rng.uniform(0.35, 0.6)
    r, t, back = rng.uniform(0.025, 0.05), rng.uniform(0.025, 0.06), rng.uniform(0.4, 0.8)
    parts = [Part("box", (w / 2, d / 2, t, 0.01), (0, 0, h))]
    parts += _legs(rng, w / 2 - r, d / 2 - r, h, r, rng.uniform(0, 0.25), 1, bool(rng.random() < 0.5))
    y = d / 2 - r
    if rng.random() < 0.5:
        parts.append(Part("box", (w / 2, r, back / 2, 0.01), (0, y, h + back / 2), colour=2))
    else:
        n = int(rng.integers(2, 5))
        for x in np.linspace(-w / 2 + r, w / 2 - r, n):
            parts.append(segment((x, y, h), (x, y, h + back), r * 0.9, 1))
        parts.append(Part("box", (w / 2, r, back * rng.uniform(0.1, 0.25), 0.01), (0, y, h + back * 0.85), colour=2))
    if rng.random() < 0.35:
        a = rng.uniform(0.15, 0.25)
        for sx in (-1, 1):
            parts.append(segment((sx * w / 2, y, h + a), (sx * w / 2, -d / 2 + r, h + a), r, 2))
            parts.append(segment((sx * w / 2, -d / 2 + r, h + a), (sx * w / 2, -d / 2 + r, h), r, 2))
    return parts, 1


def stool(rng: Rng) -> Design:
    n, h = int(rng.integers(3, 6)), rng.uniform(0.4, 1.0)
    seat, r = rng.uniform(0.18, 0.35), rng.uniform(0.022, 0.045)
    t, splay = rng.uniform(0.02, 0.07), rng.uniform(0.9, 1.5)
    parts = [Part("cylinder", (seat, t, 0.01), (0, 0, h))]
    ring = rng.random() < 0.6
    for k in range(n):
        a = 2 * np.pi * (k + 0.5) / n - np.pi / 2
        c, s = np.cos(a) * seat * 0.8, np.sin(a) * seat * 0.8
        parts.append(segment((c, s, h), (c * splay, s * splay, r), r, 1))
    if ring:
        at = rng.uniform(0.25, 0.5)
        parts.append(Part("torus", (seat * 0.8 * (splay + (1 - splay) * at), r * 0.8), (0, 0, h * at), colour=2))
    return parts, n


def table(rng: Rng) -> Design:
    w, h = rng.uniform(0.6, 1.2), rng.uniform(0.35, 0.7)
    t, r = rng.uniform(0.02, 0.05), rng.uniform(0.025, 0.06)
    if rng.random() < 0.35:  # pedestal
        parts = [Part("cylinder", (w / 2, t, 0.01), (0, 0, h))]
        parts.append(Part("cylinder", (r * 1.3, h / 2), (0, 0, h / 2), colour=1))
        parts.append(Part("cone", (w * rng.uniform(0.2, 0.35), r * 1.3, t), (0, 0, t), colour=1))
        return parts, 0
    d = w * rng.uniform(0.5, 0.85)
    parts = [Part("box", (w / 2, d / 2, t, 0.01), (0, 0, h))]
    parts += _legs(rng, w / 2 - r * 1.5, d / 2 - r * 1.5, h, r, 0, 1, bool(rng.random() < 0.6))
    if rng.random() < 0.4:
        parts.append(Part("box", (w / 2 - r, d / 2 - r, t * 0.8), (0, 0, h * rng.uniform(0.2, 0.45)), colour=2))
    return parts, 2


def lamp(rng: Rng) -> Design:
    h, r = rng.uniform(0.6, 1.1), rng.uniform(0.02, 0.04)
    base, shade = rng.uniform(0.12, 0.25), rng.uniform(0.16, 0.32)
    sh = rng.uniform(0.1, 0.2)
    parts = [Part("cylinder", (base, rng.uniform(0.02, 0.05), 0.01), (0, 0, 0.03))]
    parts.append(Part("cylinder", (r, h / 2), (0, 0, h / 2), colour=1))
    if rng.random() < 0.5:
        parts.append(Part("ellipsoid", (base * 0.7,) * 2 + (h * 0.2,), (0, 0, h * 0.25), colour=0))
    if rng.random() < 0.7:
        parts.append(Part("cone", (shade, shade * rng.uniform(0.4, 0.8), sh), (0, 0, h), colour=2, hollow=0.03))
    else:
        parts.append(Part("ellipsoid", (shade, shade, sh), (0, 0, h), colour=2))
    return parts, 0


def shelf(rng: Rng) -> Design:
    w, d, h, t = rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.35), rng.uniform(0.7, 1.3), rng.uniform(0.02, 0.04)
    n = int(rng.integers(2, 5))
    parts = [Part("box", (t, d / 2, h / 2), (s * (w / 2 - t), 0, h / 2)) for s in (-1, 1)]
    parts += [Part("box", (w / 2, d / 2, t), (0, 0, z), colour=1) for z in np.linspace(t, h - t, n + 1)]
    symmetry = 2
    if rng.random() < 0.5:
        parts.append(Part("box", (w / 2, t * 0.8, h / 2), (0, d / 2 - t, h / 2), colour=2))
        symmetry = 1
    elif rng.random() < 0.5:
        parts.append(Part("box", (t, d / 2, h / 2), (0, 0, h / 2), colour=2))
    return parts, symmetry


def bench(rng: Rng) -> Design:
    w, d, h, r = rng.uniform(0.9, 1.4), rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.45), rng.uniform(0.03, 0.05)
    n = int(rng.integers(2, 5))
    gap = d / n
    parts = [Part("box", (w / 2, gap * 0.36, 0.03), (0, (k + 0.5) * gap - d / 2, h)) for k in range(n)]
    for sx in (-1, 1):
        x = sx * w * 0.42
        parts.append(Part("box", (r, d / 2, r), (x, 0, h - 0.05), colour=1))
        for y in (-d / 2 + r, d / 2 - r):
            parts.append(Part("box", (r, r, h / 2), (x, y, h / 2), colour=1))
    if rng.random() < 0.6:
        b = rng.uniform(0.3, 0.5)
        for sx in (-1, 1):
            parts.append(Part("box", (r, r, b / 2), (sx * w * 0.42, d / 2 - r, h + b / 2), colour=1))
        for z in (h + b * 0.5, h + b * 0.9):
            parts.append(Part("box", (w / 2, 0.03, 0.05), (0, d / 2 - r, z), colour=2))
        return parts, 1
    return parts, 2


def ladder(rng: Rng) -> Design:
    w, h, r = rng.uniform(0.3, 0.5), rng.uniform(0.9, 1.4), rng.uniform(0.025, 0.045)
    lean = rng.uniform(0.12, 0.4)  # enough for its direction to be visible
    n = int(rng.integers(3, 7))
    parts = [segment((s * w / 2, 0, 0), (s * w * 0.45, lean, h), r) for s in (-1, 1)]
    for k in range(n):
        f = (k + 0.6) / n
        x = w * (0.5 - 0.05 * f)
        parts.append(segment((-x, lean * f, h * f), (x, lean * f, h * f), r * 0.85, 1))
    if rng.random() < 0.5:
        parts += [segment((s * w / 2, 2 * lean, 0), (s * w * 0.45, lean, h), r, 2) for s in (-1, 1)]
    return parts, 1


def frame(rng: Rng) -> Design:
    w, h, t, d = rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.1), rng.uniform(0.03, 0.06), rng.uniform(0.03, 0.07)
    parts = [Part("box", (w / 2, d, t), (0, 0, s * (h / 2 - t))) for s in (-1, 1)]
    parts += [Part("box", (t, d, h / 2), (s * (w / 2 - t), 0, 0)) for s in (-1, 1)]
    for x in np.linspace(-w / 2, w / 2, int(rng.integers(0, 3)) + 2)[1:-1]:
        parts.append(Part("box", (t * 0.7, d * 0.8, h / 2), (float(x), 0, 0), colour=1))
    for z in np.linspace(-h / 2, h / 2, int(rng.integers(0, 3)) + 2)[1:-1]:
        parts.append(Part("box", (w / 2, d * 0.8, t * 0.7), (0, 0, float(z)), colour=1))
    if rng.random() < 0.5:
        parts.append(Part("box", (w * 0.35, 0.15, 0.03), (0, 0, -h / 2), colour=2))
    return parts, 2


def crate(rng: Rng) -> Design:
    x, z = rng.uniform(0.35, 0.5), rng.uniform(0.25, 0.5)
    y = x * rng.uniform(0.5, 0.78)  # the longer side along x: the yaw is visible in a picture
    r = rng.uniform(0.03, 0.05)
    parts = []
    for a in (-1, 1):
        for b in (-1, 1):
            parts.append(segment((-x, a * y, b * z), (x, a * y, b * z), r))
            parts.append(segment((a * x, -y, b * z), (a * x, y, b * z), r))
            parts.append(segment((a * x, b * y, -z), (a * x, b * y, z), r, 1))
    if rng.random() < 0.6:
        parts.append(Part("box", (x, y, 0.025), (0, 0, -z), colour=2))
    if rng.random() < 0.5:
        q = min(x, y, z) * rng.uniform(0.4, 0.7)
        parts.append(Part("ellipsoid", (q, q, q), (0, 0, q - z), colour=2))
    return parts, 2
