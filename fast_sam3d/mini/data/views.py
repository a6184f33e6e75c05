"""Pictures of one object: random camera, sphere tracing and occluder.

Camera frame and pose follow PyTorch3D: +x left, +y up, +z forward, row vectors, p_cam = (p_obj * size) @ R + t.
Image coordinates (u, v) are in units of the longer image side, origin in the image centre, v down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fast_sam3d.mini.data.families import Sampled
from fast_sam3d.mini.data.sdf import Solid, rotation

TRACE_STEPS = 48
HIT = 1.5e-3  # canonical units

# Rows are the world's x, y, z axes seen by a camera that looks along world +y with z up.
_LOOK_ALONG_Y = np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class ViewCamera:
    """Camera, and pose of the object in its frame."""

    R: np.ndarray  # [3, 3]
    t: np.ndarray  # [3], metres
    size: float  # metres per canonical unit
    focal: float  # units of the longer image side
    light: np.ndarray  # [3], unit, camera frame

    def project(self, points: np.ndarray) -> np.ndarray:
        """Canonical points [P, 3] to image coordinates [P, 2]."""
        c = (points * self.size) @ self.R + self.t
        return np.stack([-c[:, 0], -c[:, 1]], 1) / c[:, 2:] * self.focal


def object_rotation(yaw: float, elevation: float, roll: float) -> np.ndarray:
    """R [3, 3], for row vectors, of an object rotated by yaw and seen from an elevation; degrees."""
    turn = rotation("z", yaw).T
    tilt = rotation("x", elevation).T  # positive elevation: the camera looks down
    return (turn @ tilt @ _LOOK_ALONG_Y @ rotation("z", roll).T).astype(np.float32)


def sample_camera(rng: np.random.Generator, symmetry: int) -> ViewCamera:
    """A random camera; yaw is sampled from the range that the object's symmetry leaves distinguishable."""
    reach = 180.0 / symmetry if symmetry else 0.0
    yaw = float(rng.uniform(-reach, reach)) if reach else 0.0
    elevation = float(rng.triangular(-12, 22, 55))
    R = object_rotation(yaw, elevation, float(rng.normal(0, 2)))
    size = float(np.exp(rng.uniform(np.log(0.2), np.log(2.5))))
    focal = float(rng.uniform(0.8, 1.7))
    depth = focal * size / float(rng.uniform(0.25, 0.8))
    depth = max(depth, 1.2 * size)
    room = max(0.5 - 0.5 * focal * size / depth, 0.0)
    uv = rng.uniform(-1, 1, 2) * room
    t = np.array([-uv[0] / focal * depth, -uv[1] / focal * depth, depth], np.float32)
    light = np.array([rng.uniform(-1, 1), rng.uniform(0.4, 1.2), -rng.uniform(0.4, 1.0)], np.float32)
    return ViewCamera(R, t, size, focal, light / np.linalg.norm(light))


def trace(solid: Solid, camera: ViewCamera, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sphere-trace rays.

    Args:
        uv: [P, 2] image coordinates.

    Returns:
        hit [P] bool and canonical hit points [P, 3] (undefined off the object).
    """
    direction = np.concatenate([-uv / camera.focal, np.ones((len(uv), 1), np.float32)], 1)
    origin = (-camera.t @ camera.R.T / camera.size).astype(np.float32)
    ray = (direction @ camera.R.T).astype(np.float32)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    # Start and stop at the bounding ball of the cube's contents.
    b = ray @ origin
    disc = b * b - (origin @ origin - np.float32(0.85**2))
    alive = np.flatnonzero(disc > 0)
    root = np.sqrt(disc[alive])
    depth = np.maximum(-b[alive] - root, 0)
    far = -b[alive] + root
    hit = np.zeros(len(uv), bool)
    points = np.zeros((len(uv), 3), np.float32)
    for _ in range(TRACE_STEPS):
        p = origin + ray[alive] * depth[:, None]
        d = solid.distance(p)
        near = d < HIT
        hit[alive[near]] = True
        points[alive[near]] = p[near]
        depth = depth + np.maximum(d, HIT) * 0.95
        keep = ~near & (depth < far)
        alive, depth, far = alive[keep], depth[keep], far[keep]
        if not len(alive):
            break
    return hit, points


@dataclass(frozen=True)
class Occluder:
    """A flat occluder in front of the object: a box or an ellipse in the image."""

    centre: np.ndarray
    half: np.ndarray
    turn: float
    round: bool
    colour: np.ndarray
    depth_share: float

    def covers(self, uv: np.ndarray) -> np.ndarray:
        c, s = np.cos(self.turn), np.sin(self.turn)
        q = (uv - self.centre) @ np.array([[c, -s], [s, c]], np.float32) / self.half
        return (q * q).sum(1) < 1 if self.round else np.abs(q).max(1) < 1


def sample_occluder(rng: np.random.Generator, silhouette: np.ndarray, least_visible: float = 0.4) -> Occluder | None:
    """An occluder that leaves at least a share of the silhouette points [P, 2] visible; None if none was found."""
    low, high = silhouette.min(0), silhouette.max(0)
    span = float((high - low).max())
    for _ in range(8):
        edge = silhouette[int(rng.integers(len(silhouette)))]
        half = span * rng.uniform(0.08, 0.4, 2)
        occluder = Occluder(
            (edge + rng.normal(0, 0.2 * span, 2)).astype(np.float32), half.astype(np.float32),
            float(rng.uniform(0, 3.14)), bool(rng.random() < 0.5),
            rng.uniform(0.05, 0.95, 3).astype(np.float32), float(rng.uniform(0.6, 0.9)),
        )  # fmt: skip
        hidden = occluder.covers(silhouette).mean()
        if 0.05 < hidden < 1 - least_visible:
            return occluder
    return None


@dataclass(frozen=True)
class Backdrop:
    """Background: a gradient of two colours and, with `floor`, a plane below the object."""

    high: np.ndarray
    low: np.ndarray
    floor: bool

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Backdrop:
        return cls(rng.uniform(0, 1, 3).astype(np.float32), rng.uniform(0, 1, 3).astype(np.float32), rng.random() < 0.7)


@dataclass(frozen=True)
class Picture:
    """Rendered pixels: rgb [P, 3] in 0..1, mask [P] bool (visible object), points [P, 3] metres, NaN in empty space."""

    rgb: np.ndarray
    mask: np.ndarray
    points: np.ndarray


def render(
    sampled: Sampled, camera: ViewCamera, backdrop: Backdrop, occluder: Occluder | None, uv: np.ndarray
) -> Picture:
    """Render pixels at image coordinates uv [P, 2]."""
    solid = sampled.solid
    hit, where = trace(solid, camera, uv)
    slope = np.concatenate([-uv / camera.focal, np.ones((len(uv), 1), np.float32)], 1).astype(np.float32)
    v = np.clip(uv[:, 1:] + 0.5, 0, 1)
    rgb = ((1 - v) * backdrop.high + v * backdrop.low).astype(np.float32)
    points = np.full((len(uv), 3), np.nan, np.float32)
    if backdrop.floor:
        up = np.array([0, 0, 1], np.float32) @ camera.R
        foot = np.array([0, 0, -0.5 * solid.LONGEST * camera.size], np.float32) @ camera.R + camera.t
        drop = slope @ up
        depth = np.where(drop < -1e-3, (foot @ up) / np.where(drop < -1e-3, drop, 1), np.inf)
        seen = (depth > 0) & (depth < 6 * camera.t[2])
        points[seen] = slope[seen] * depth[seen, None]
        rgb[seen] = backdrop.low * 0.8
    if hit.any():
        p = where[hit]
        normal = solid.normal(p) @ camera.R
        shade = 0.45 + 0.55 * np.clip(normal @ camera.light, 0, 1)
        rgb[hit] = solid.colour(p) * shade[:, None]
        points[hit] = (p * camera.size) @ camera.R + camera.t
    mask = hit.copy()
    if occluder is not None:
        over = occluder.covers(uv)
        mask &= ~over
        rgb[over] = occluder.colour
        points[over] = slope[over] * camera.t[2] * occluder.depth_share
    return Picture(np.clip(rgb, 0, 1), mask, points)
