"""Means and medians with standard errors, paired differences and ratios, and averages per object."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy

RESAMPLES = 2000


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean of values [N] and its standard error; entries that are not finite are left out.

    Returns:
        (mean, error); both NaN without a finite value, the error NaN with only one.
    """
    known = _finite(values)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan")
    return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))


def median_and_error(values: Any, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Median of values [N] and its standard error by the bootstrap (Efron, 1979).

    Args:
        values: entries that are not finite are left out.
        resamples: draws of N values with replacement; the error is the standard deviation of their medians.
        seed: of a separate generator.

    Returns:
        as `mean_and_error`.
    """
    known = _finite(values)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan")
    random = np.random.default_rng(seed)
    medians = np.median(known[random.integers(len(known), size=(resamples, len(known)))], axis=1)
    return float(np.median(known)), float(np.std(medians, ddof=1))


def _finite(values: Any) -> np.ndarray:
    known = as_numpy(values, np.float64).reshape(-1)
    return known[np.isfinite(known)]


def paired_difference(values: Any, base: Any) -> tuple[float, float]:
    """Mean and standard error of values [N] minus base [N], pair by pair; pairs with a NaN are left out.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = _pairs(values, base)
    return mean_and_error(first - second)


def paired_ratio(values: Any, base: Any) -> tuple[float, float]:
    """Median and standard error of base [N] / values [N], pair by pair: the speed-up if these are seconds.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = _pairs(values, base)
    with np.errstate(divide="ignore", invalid="ignore"):
        return median_and_error(second / first)


def by_group(values: Any, groups: Sequence[Hashable]) -> np.ndarray:
    """[G] mean of the values [N] of each group, in the order of their first member.

    Several seeds of one object are not independent samples: average them first, then take the error over objects.
    Values that are not finite are left out; NaN for a group without any finite value.

    Raises:
        ValueError: values and groups of different length.
    """
    known = as_numpy(values, np.float64).reshape(-1)
    if len(known) != len(groups):
        raise ValueError(f"{len(known)} values and {len(groups)} groups: give one group per value")
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(known, groups, strict=True):
        members.setdefault(group, [])
        if np.isfinite(value):
            members[group].append(float(value))
    return np.array([np.mean(found) if found else np.nan for found in members.values()])


def _pairs(values: Any, base: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = (as_numpy(item, np.float64).reshape(-1) for item in (values, base))
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)} base values: give one base value per value")
    return first, second
