"""Signed-distance primitives in numpy: negative inside, in units of the object's frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Vector = tuple[float, float, float]


def rotation(axis: str, degrees: float) -> np.ndarray:
    """[3, 3] float32 rotation matrix about one axis, for column vectors."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    m = np.eye(3, dtype=np.float32)
    m[i, i] = m[j, j] = c
    m[i, j], m[j, i] = -s, s
    return m


@dataclass(frozen=True)
class Part:
    """One placed primitive. `kind` picks the formula, `size` its parameters.

    box: half extents (a, b, c) and rounding; cylinder: radius, half height, rounding; cone: bottom radius, top radius,
    half height; capsule: radius, half length along z; ellipsoid: radii; torus: ring radius, tube radius, in the xy
    plane; arc: the part y > cut of a torus. `hollow` > 0 (cylinder, cone): thickness of the wall of a container that is
    open at the top.
    """

    kind: str
    size: tuple[float, ...]
    at: Vector = (0.0, 0.0, 0.0)
    turn: np.ndarray | None = field(default=None, compare=False)
    colour: int = 0
    hollow: float = 0.0

    def distance(self, p: np.ndarray) -> np.ndarray:
        """Signed distance [P] at points p [P, 3]."""
        q = p - np.asarray(self.at, np.float32)
        if self.turn is not None:
            q = q @ self.turn
        d = _FORMULA[self.kind](q, self.size)
        if self.hollow:
            w = self.hollow  # cavity: the same solid, thinner and raised by the wall's thickness
            thinner = (self.size[0] - w, self.size[1] - (w if self.kind == "cone" else 0), *self.size[2:])
            d = np.maximum(d, -_FORMULA[self.kind](q - np.array([0, 0, w], np.float32), thinner))
        return d

    def _half(self) -> np.ndarray:
        s = self.size
        half = {
            "box": lambda: s[:3],
            "cylinder": lambda: (s[0], s[0], s[1]),
            "cone": lambda: (max(s[:2]), max(s[:2]), s[2]),
            "capsule": lambda: (s[0], s[0], s[1] + s[0]),
            "ellipsoid": lambda: s[:3],
            "torus": lambda: (s[0] + s[1], s[0] + s[1], s[1]),
            "arc": lambda: (s[0] + s[1], s[0] + s[1], s[1]),
        }[self.kind]()
        return np.asarray(half, np.float32)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner [3] of the axis-aligned box; exact for boxes, tight for the round kinds."""
        half = self._half()
        centre = np.asarray(self.at, np.float32)
        if self.turn is not None:
            if self.kind == "capsule":
                half = np.abs(self.turn[:, 2]) * self.size[1] + self.size[0]
            else:
                half = np.abs(self.turn) @ half
        low, high = centre - half, centre + half
        if self.kind == "arc" and self.turn is None:
            low[1] = centre[1] + self.size[2]
        return low, high


def _box(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    r = s[3] if len(s) > 3 else 0.0
    d = np.abs(q) - (np.asarray(s[:3], np.float32) - r)
    outside = np.maximum(d, 0)
    return np.sqrt(np.einsum("ij,ij->i", outside, outside)) + np.minimum(d.max(1), 0) - r


def _round_2d(dx: np.ndarray, dz: np.ndarray) -> np.ndarray:
    return np.hypot(np.maximum(dx, 0), np.maximum(dz, 0)) + np.minimum(np.maximum(dx, dz), 0)


def _cylinder(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    r = s[2] if len(s) > 2 else 0.0
    return _round_2d(np.hypot(q[:, 0], q[:, 1]) - s[0] + r, np.abs(q[:, 2]) - s[1] + r) - r


def _cone(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    """Exact, because overestimates near a narrow top let rays pass through thin walls."""
    bottom, top, half = s[:3]
    r, z = np.hypot(q[:, 0], q[:, 1]), q[:, 2]
    # In the (r, z) half plane: distances to the nearer flat end and to the side from (bottom, -half) to (top, half).
    end_r, end_z = np.maximum(r - np.where(z < 0, bottom, top), 0), np.abs(z) - half
    out, up = top - bottom, 2 * half
    along = np.clip(((r - bottom) * out + (z + half) * up) / (out * out + up * up), 0, 1)
    side_r, side_z = r - bottom - along * out, z + half - along * up
    d = np.sqrt(np.minimum(end_r * end_r + end_z * end_z, side_r * side_r + side_z * side_z))
    return np.where((side_r < 0) & (end_z < 0), -d, d).astype(q.dtype)


def _capsule(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    z = q[:, 2] - np.clip(q[:, 2], -s[1], s[1])
    return np.sqrt(q[:, 0] ** 2 + q[:, 1] ** 2 + z * z) - s[0]


def _ellipsoid(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    r = np.asarray(s[:3], np.float32)
    k0 = np.linalg.norm(q / r, axis=1)
    k1 = np.linalg.norm(q / (r * r), axis=1)
    return np.where(k0 < 1e-4, -r.min(), k0 * (k0 - 1) / np.maximum(k1, 1e-6))


def _torus(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    return np.hypot(np.hypot(q[:, 0], q[:, 1]) - s[0], q[:, 2]) - s[1]


def _arc(q: np.ndarray, s: tuple[float, ...]) -> np.ndarray:
    return np.maximum(_torus(q, s), s[2] - q[:, 1])


_FORMULA = {
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "capsule": _capsule,
    "ellipsoid": _ellipsoid,
    "torus": _torus,
    "arc": _arc,
}


def segment(a: Vector, b: Vector, radius: float, colour: int = 0) -> Part:
    """Capsule from a to b."""
    a_, b_ = np.asarray(a, np.float32), np.asarray(b, np.float32)
    d = b_ - a_
    length = float(np.linalg.norm(d))
    z = d / max(length, 1e-6)
    x = np.cross(z, [0, 0, 1.0] if abs(z[2]) < 0.9 else [1.0, 0, 0])
    x /= np.linalg.norm(x)
    turn = np.stack([x, np.cross(z, x), z], 1).astype(np.float32)
    at = (a_ + b_) / 2
    return Part("capsule", (radius, length / 2), (float(at[0]), float(at[1]), float(at[2])), turn, colour)


@dataclass(frozen=True)
class Solid:
    """A union of parts, scaled and moved so that its longest side is `LONGEST` and its box is centred."""

    parts: tuple[Part, ...]
    colours: np.ndarray  # [n, 3] float32 in 0..1
    stripes: tuple[int, float, np.ndarray] | None  # colour index, period, other colour
    centre: np.ndarray
    scale: float  # canonical units per unit of the parts' frame

    LONGEST = 0.94

    @classmethod
    def fit(
        cls, parts: list[Part], colours: np.ndarray, stripes: tuple[int, float, np.ndarray] | None, *, on_axis: bool
    ) -> Solid:
        """Place parts in the canonical cube; `on_axis` centres their z axis, as symmetric objects need."""
        lows, highs = zip(*(p.bounds() for p in parts), strict=True)
        low, high = np.min(lows, 0), np.max(highs, 0)
        if on_axis:
            high[:2] = np.maximum(high[:2], -low[:2])
            low[:2] = -high[:2]
        return cls(tuple(parts), colours, stripes, (low + high) / 2, cls.LONGEST / float((high - low).max()))

    def distance(self, p: np.ndarray) -> np.ndarray:
        """Signed distance [P] in canonical units at canonical points [P, 3]."""
        q = (p / self.scale + self.centre).astype(np.float32)
        d = self.parts[0].distance(q)
        for part in self.parts[1:]:
            np.minimum(d, part.distance(q), out=d)
        return d * np.float32(self.scale)

    def colour(self, p: np.ndarray) -> np.ndarray:
        """Albedo [P, 3] of the nearest part."""
        q = (p / self.scale + self.centre).astype(np.float32)
        index = np.array([part.colour for part in self.parts])
        part = np.argmin(np.stack([part.distance(q) for part in self.parts]), 0)
        rgb = self.colours[index[part]]
        if self.stripes is not None:
            which, period, other = self.stripes
            on = (index[part] == which) & (np.floor(p[:, 2] / period) % 2 == 0)
            rgb = np.where(on[:, None], other, rgb)
        return rgb.astype(np.float32)

    def normal(self, p: np.ndarray, step: float = 2e-3) -> np.ndarray:
        """Unit gradient [P, 3] of the distance, from four samples at a tetrahedron's corners."""
        corners = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
        d = self.distance((p[None] + step * corners[:, None]).reshape(-1, 3)).reshape(4, -1)
        n = np.einsum("kp,kc->pc", d, corners)
        return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
