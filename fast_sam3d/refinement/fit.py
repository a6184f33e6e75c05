"""Pose refinement: Gauss-Newton fit of a small similarity to the object's silhouette and visible surface.

Three terms, each the mean square of an error in units of the object's size, and a prior on the given pose:

- silhouette: the object's points, splatted, blurred and saturated, against the equally blurred mask;
- outline: points near the rim of that image against the distance to the mask's outline, which has a larger basin;
- depth: the object's points against the tangent planes of the nearest measured points (point-to-plane ICP, Chen and
  Medioni 1992).

The result is a continuous function of the inputs: poses that differ by rounding are refined to poses that differ by
rounding, so objects of a batch and single ones agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.sparse import csr_array
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from fast_sam3d.geometry.camera import NEAR
from fast_sam3d.refinement.target import LayoutTarget

__all__ = ["LayoutSettings", "Motion", "fit"]

Array = NDArray[np.float64]

OPACITY = 3.0  # of the splats at their usual density: 1 - exp(-3) = 0.95
USUAL_DENSITY = 0.6  # quantile over the points
RIM_PX = 0.3  # splatted points lie this far inside of the outline that they represent
LEAST_DEPTH_POINTS = 30
LONGEST_STEP = 0.15  # radians, object diameters, log scale


@dataclass(frozen=True, slots=True)
class LayoutSettings:
    """Settings of the refinement, tuned on held-out objects of the embedded model.

    Args:
        span: pixels of the longer side of the mask's box in the fit; `judged_span` in the comparison of silhouettes.
        points, depth_points: maximum number of points of the object and of the pointmap.
        blurs: pixels, of each step.
        silhouette, outline, depth: weights of the terms.
        outline_tolerance, depth_tolerance: object diameters, error at which the robust weight is a quarter.
        prior: weight of the prior on the given pose; `turn` (radians), `shift` (object diameters) and `growth` (log
            scale) are its standard deviations.
        least_gain: of the overlap with the mask (IoU) for which the refined pose is accepted.

    Raises:
        ValueError: a setting that is not positive.
    """

    span: int = 64
    judged_span: int = 128
    points: int = 12_000
    depth_points: int = 500
    blurs: tuple[float, ...] = (3.0, 3.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.7, 0.7)
    silhouette: float = 2.0
    outline: float = 2.0
    depth: float = 5.0
    outline_tolerance: float = 0.1
    depth_tolerance: float = 0.05
    prior: float = 1e-4
    turn: float = 0.12
    shift: float = 0.05
    growth: float = 0.07
    least_gain: float = 0.01

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            values = np.atleast_1d(getattr(self, name))
            if not len(values) or not (values > 0).all():
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Motion(NamedTuple):
    """A small similarity in the camera's frame: p -> centre + growth * (p - centre) @ turn + shift.

    turn [3, 3] for row vectors, shift [3], growth > 0, centre [3].
    """

    turn: Array
    shift: Array
    growth: float
    centre: Array

    @classmethod
    def of(cls, x: Array, centre: Array, diameter: float) -> Motion:
        """From a rotation vector, a shift in diameters and a log scale: x [7]."""
        return cls(Rotation.from_rotvec(x[:3]).as_matrix().T, x[3:6] * diameter, float(np.exp(x[6])), centre)

    def __call__(self, points: Array) -> Array:
        """Points [N, 3] moved."""
        moved: Array = self.centre + self.growth * (points - self.centre) @ self.turn + self.shift
        return moved

    def undo(self, points: Array) -> Array:
        """Points [N, 3] moved back."""
        back: Array = self.centre + (points - self.shift - self.centre) @ self.turn.T / self.growth
        return back


def fit(points: Array, target: LayoutTarget, diameter: float, settings: LayoutSettings) -> Motion:
    """The motion that fits an object to its mask and its visible points.

    Args:
        points: [N, 3] on the object's surface, camera frame, in front of the camera.
        diameter: of the object, camera units.
    """
    centre = (points.min(0) + points.max(0)) / 2
    usual = np.repeat([settings.turn, settings.shift, settings.growth], [3, 3, 1])
    prior = settings.prior / usual**2
    measured, normals = target.surface(settings.depth_points)
    x, usual_density, tree = np.zeros(7), 0.0, KDTree(points)
    for step, blur in enumerate(settings.blurs):
        motion = Motion.of(x, centre, diameter)
        moved = motion(points)
        slopes = _motions(moved, centre + x[3:6] * diameter, diameter)
        seen = _projected(target, moved, slopes)
        picture = _splatted(target, seen, blur)
        if step == 0 or blur != settings.blurs[step - 1]:
            usual_density = float(np.quantile(_at(picture.density, seen.pixels), USUAL_DENSITY))
        terms = [(np.diag(prior), prior * x)]
        terms += _silhouettes(target, seen, picture, max(usual_density, 1e-9), blur, settings)
        if len(measured) >= LEAST_DEPTH_POINTS:
            # Measured points are moved to the object's initial place, for which the tree was built.
            distance, nearest = tree.query(motion.undo(measured))
            error = ((moved[nearest] - measured) * normals).sum(1) / diameter
            slope = np.einsum("nc,ncj->nj", normals, slopes[nearest]) / diameter
            weight = _trust(distance / diameter, settings.depth_tolerance) / len(measured)
            terms.append(_normal_equations(slope, error, settings.depth * weight))
        matrix, gradient = (sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True))
        change = -np.linalg.solve(matrix, gradient)
        x = x + change * min(1.0, LONGEST_STEP / max(float(np.abs(change).max()), 1e-30))
    return Motion.of(x, centre, diameter)


class _Seen(NamedTuple):
    """Projected points: pixels [N, 2] (u, v), depth [N], and the derivatives of u and v by the motion, [N, 7] each."""

    pixels: Array
    depth: Array
    du: Array
    dv: Array


class _Picture(NamedTuple):
    """Density of splats [h, w], and its derivatives by the motion [h, w, 7]."""

    density: Array
    slopes: Array


def _motions(points: Array, centre: Array, diameter: float) -> Array:
    """[N, 3, 7] derivatives of points by a turn, a shift and a log scale about the centre."""
    x, y, z = (points - centre).T
    slopes = np.zeros((len(points), 3, 7))
    slopes[:, 0, 1], slopes[:, 0, 2] = z, -y
    slopes[:, 1, 0], slopes[:, 1, 2] = -z, x
    slopes[:, 2, 0], slopes[:, 2, 1] = y, -x
    slopes[:, [0, 1, 2], [3, 4, 5]] = diameter
    slopes[:, :, 6] = points - centre
    return slopes


def _projected(target: LayoutTarget, points: Array, slopes: Array) -> _Seen:
    pixels, depth = target.camera.project(points)
    depth = np.maximum(depth, NEAR)
    along = points[:, :2] / depth[:, None]
    by = target.camera.focal / depth[:, None]
    du, dv = (by * (along[:, k, None] * slopes[:, 2] - slopes[:, k]) for k in (0, 1))
    return _Seen(pixels, depth, du, dv)


def _splatted(target: LayoutTarget, seen: _Seen, blur: float) -> _Picture:
    """Splat every point bilinearly over its four pixels, then blur.

    By continuity, the density's derivative is minus the divergence of the flow.
    """
    height, width = target.size
    count = len(seen.pixels)
    corner = np.floor(seen.pixels.clip(-1e6, 1e6) - 0.5)
    share = seen.pixels.clip(-1e6, 1e6) - 0.5 - corner
    column, row = corner.astype(np.int64).T
    columns, rows = np.stack([column, column + 1] * 2, 1), np.stack([row, row, row + 1, row + 1], 1)
    (x, y), one = share.T, 1.0
    weights = np.stack([(one - x) * (one - y), x * (one - y), (one - x) * y, x * y], 1)
    weights *= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = rows.clip(0, height - 1) * width + columns.clip(0, width - 1)
    spread = csr_array(
        (weights.ravel(), index.ravel(), np.arange(0, 4 * count + 1, 4)), shape=(count, height * width)
    )  # fmt: skip
    values = np.concatenate([np.ones((count, 1)), seen.du, seen.dv], axis=1)
    image = _blurred((spread.T @ values).reshape(height, width, 15), blur)
    flow = np.gradient(image[..., 1:8], axis=1) + np.gradient(image[..., 8:], axis=0)
    return _Picture(image[..., 0], -flow)


def _silhouettes(
    target: LayoutTarget, seen: _Seen, picture: _Picture, usual_density: float, blur: float, settings: LayoutSettings
) -> list[tuple[Array, Array]]:
    """Normal equations of the silhouette and of the outline."""
    fixed = ~target.open
    covered = 1 - np.exp(-OPACITY * picture.density / usual_density)
    wanted = 1 - np.exp(-OPACITY * _blurred(target.mask.astype(float), blur))
    slope = ((1 - covered) * OPACITY / usual_density * fixed)[..., None] * picture.slopes
    # An outline error of d pixels causes a sum of squares of about d^2 / (2 sqrt(pi) blur) per outline pixel.
    norm = 2 * np.sqrt(np.pi) * blur / (target.outline_length * settings.span**2)
    weight = np.full(covered.size, settings.silhouette * norm)
    area = _normal_equations(slope.reshape(-1, 7), ((covered - wanted) * fixed).ravel(), weight)

    down, right = _slopes(covered)
    rim = np.sqrt(down**2 + right**2) * fixed
    weight = _at(rim, seen.pixels) / (_at(picture.density, seen.pixels) + 0.1 * usual_density)
    error = _at(target.distance, seen.pixels) + RIM_PX
    # The object may extend behind an occluder, but must not end before it.
    weight = weight * np.where(error > 0, 1 - _at(target.behind.astype(float), seen.pixels), 1.0)
    error = error / settings.span
    weight = settings.outline * weight / max(float(weight.sum()), 1e-9) * _trust(error, settings.outline_tolerance)
    down, right = _slopes(target.distance)
    slope = _at(right, seen.pixels)[:, None] * seen.du + _at(down, seen.pixels)[:, None] * seen.dv
    return [area, _normal_equations(slope / settings.span, error, weight)]


def _normal_equations(slope: Array, error: Array, weight: Array) -> tuple[Array, Array]:
    """Matrix [7, 7] and gradient [7] of weighted squares; slope [N, 7], error and weight [N]."""
    weighted = slope * weight[:, None]
    return weighted.T @ slope, weighted.T @ error


def _trust(error: Array, tolerance: float) -> Array:
    """Geman-McClure weight of an error: 1 for no error, 1/4 at the tolerance."""
    trust: Array = 1 / (1 + (error / tolerance) ** 2) ** 2
    return trust


def _at(image: Array, pixels: Array) -> Array:
    """[N] bilinear samples of an image [h, w]; beyond its border, the border's values."""
    values: Array = map_coordinates(image, (pixels[:, ::-1] - 0.5).T, order=1, mode="nearest")
    return values


def _blurred(image: Array, blur: float) -> Array:
    """Gaussian blur of an image [h, w, ...] along its first two axes, zero outside."""
    rows = gaussian_filter1d(image, blur, axis=0, mode="constant", truncate=3.0)
    both: Array = gaussian_filter1d(rows, blur, axis=1, mode="constant", truncate=3.0)
    return both


def _slopes(image: Array) -> tuple[Array, Array]:
    """Gradient of an image [h, w] per row and per column."""
    down, right = (np.gradient(image, axis=axis) for axis in (0, 1))
    return np.asarray(down), np.asarray(right)
