"""Drift of a candidate in units of the seed noise, and the budget.

For one object and one measure, the drift d of a result is the score of the unaccelerated result of the same seed
against itself (1 for IoU and SSIM; measured for F1 and ADD-S, which depend on sampled points) minus the score of the
result against it. The noise n is the drift of the unaccelerated result with another seed. Over objects, the share is
mean(d) / mean(n); its standard error, by the delta method, is that of the mean of d - share n over mean(n). Seeds of
one object are averaged first.

A candidate is admissible if share + margin * error <= budget for every measure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fast_sam3d.errors import ConfigError, suggest
from fast_sam3d.metrics import by_group, mean_and_error

MEASURES: Mapping[str, tuple[str, int]] = {
    "voxel_iou": ("voxels", 1),
    "f1@0.01": ("surface", 1),
    "f1@0.05": ("surface", 1),
    "chamfer": ("surface", -1),
    "volume_iou": ("volume", 1),
    "box_iou": ("layout", 1),
    "oriented_box_iou": ("layout", 1),
    "add_s": ("layout", -1),
    "translation_error": ("pose", -1),
    "scale_error": ("pose", -1),
    "ssim": ("appearance", 1),
    "latent_error": ("latent", -1),
}
"""Measure to its part of `fast_sam3d.metrics.Protocol`, and 1 if higher is better, -1 if lower is."""
GUARDED = ("voxel_iou", "f1@0.01", "box_iou", "add_s", "ssim")
"""Default measures: structure, surface, layout, pose with scale, appearance."""


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetitions.

    Raises:
        ConfigError: an unknown name, or no name.
    """
    for name in names:
        if name not in MEASURES:
            raise ConfigError(f"unknown measure '{name}' to tune by: {suggest(name, MEASURES)}")
    if not names:
        raise ConfigError(f"no measure to tune by: give some of {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Share:
    """A drift in units of the seed noise.

    Args:
        drift, noise: means over the objects. value: drift / noise. error: its standard error, NaN with one object.
    """

    drift: float
    noise: float
    value: float
    error: float

    def upper(self, margin: float) -> float:
        """Upper bound that is compared with the budget; infinite if unknown."""
        bound = self.value + margin * self.error
        return bound if math.isfinite(bound) else math.inf


def share_of(drifts: Sequence[float], noises: Sequence[float], groups: Sequence[Hashable]) -> Share:
    """Mean drift over mean noise.

    Args:
        drifts, noises: one of each per object and seed. Pairs without a finite noise are left out; a drift that is not
            finite makes the result NaN.
        groups: the object of each pair.

    Raises:
        ValueError: the lengths differ.
    """
    own, floor = by_group(drifts, groups), by_group(noises, groups)
    known = np.isfinite(floor)
    own, floor = own[known], floor[known]
    if not len(own) or not np.isfinite(np.asarray(drifts, float)[np.isfinite(np.asarray(noises, float))]).all():
        return Share(math.nan, math.nan, math.nan, math.nan)
    drift, noise = float(own.mean()), float(floor.mean())
    if noise <= 0:
        # No noise to compare with: zero drift is fine.
        value = 0.0 if drift <= 0 else math.inf
        return Share(drift, noise, value, 0.0)
    value = drift / noise
    return Share(drift, noise, value, mean_and_error(own - value * floor)[1] / noise)


@dataclass(frozen=True)
class Verdict:
    """Measured speed and drift of one candidate on some objects.

    Args:
        name: its overrides.
        objects: number of objects.
        speed: median speed-up over the unaccelerated run, and its standard error.
        shares: by measure.
        failed: number of failed runs.
    """

    name: str
    objects: int
    speed: tuple[float, float]
    shares: Mapping[str, Share] = field(default_factory=dict)
    failed: int = 0

    def worst(self, margin: float = 0.0) -> float:
        """Largest share plus margin; infinite if a run failed or a share is unknown."""
        if self.failed or not self.shares:
            return math.inf
        uppers = [s.upper(margin) if margin else s.value for s in self.shares.values()]
        return max(bound if math.isfinite(bound) else math.inf for bound in uppers)

    def admissible(self, budget: float, margin: float) -> bool:
        """Whether every measure is within the budget and the speed is known."""
        return self.worst(margin) <= budget and math.isfinite(self.speed[0])
