"""Drifts in units of the seed noise, by hand."""

from __future__ import annotations

import math

import pytest

from fast_sam3d.errors import ConfigError
from fast_sam3d.tune.drift import GUARDED, Share, Verdict, check_measures, share_of


def test_share_by_hand():
    # Means 0.2 and 0.5, so 0.4. d - 0.4 n is -0.06, 0.02, 0.04: squares 0.0036 + 0.0004 + 0.0016 = 0.0056, variance
    # 0.0028, error of the mean sqrt(0.0028 / 3) = 0.030551, over 0.5.
    share = share_of([0.1, 0.2, 0.3], [0.4, 0.45, 0.65], ["a", "b", "c"])
    assert (share.drift, share.noise, share.value) == pytest.approx((0.2, 0.5, 0.4))
    assert share.error == pytest.approx(math.sqrt(0.0028 / 3) / 0.5)
    assert share.upper(2.0) == pytest.approx(0.4 + 2 * share.error)


def test_drifts_that_follow_the_noise_have_no_error():
    assert share_of([0.1, 0.2, 0.3], [0.2, 0.4, 0.6], ["a", "b", "c"]).error == pytest.approx(0.0, abs=1e-12)


def test_seeds_of_one_object_are_one_sample():
    share = share_of([0.0, 0.2, 0.3], [0.4, 0.4, 0.8], ["a", "a", "b"])
    assert share == share_of([0.1, 0.3], [0.4, 0.8], ["a", "b"])
    assert share.value == pytest.approx(0.2 / 0.6)


def test_unknown_values():
    assert share_of([0.1, math.nan], [0.2, math.nan], "ab").value == pytest.approx(0.5), "no noise: left out"
    assert share_of([0.1, math.nan], [0.2, 0.2], "ab").upper(1.0) == math.inf, "no drift: cannot be admitted"
    assert share_of([0.1], [0.2], "a").upper(1.0) == math.inf, "one object has no spread"
    assert share_of([], [], []).upper(0.0) == math.inf


def test_without_noise_only_zero_drift_is_admissible():
    assert share_of([0.0, 0.0], [0.0, 0.0], "ab").upper(1.0) == 0.0
    assert share_of([0.1, 0.0], [0.0, 0.0], "ab").upper(1.0) == math.inf


def test_every_measure_includes_its_margin():
    fine, near = Share(0.1, 1.0, 0.1, 0.01), Share(0.3, 1.0, 0.3, 0.02)
    verdict = Verdict("x", 3, (2.0, 0.1), {"a": fine, "b": near})
    assert verdict.worst() == 0.3 and verdict.worst(2.0) == pytest.approx(0.34)
    assert verdict.admissible(0.33, 1.0) and not verdict.admissible(0.33, 2.0)
    assert not verdict.admissible(0.29, 0.0)


def test_a_failure_or_no_measure_is_never_admissible():
    fine = {"a": Share(0.1, 1.0, 0.1, 0.01)}
    assert Verdict("x", 3, (2.0, 0.1), fine).admissible(1.0, 1.0)
    assert not Verdict("x", 3, (2.0, 0.1), fine, failed=1).admissible(1.0, 1.0)
    assert not Verdict("x", 3, (2.0, 0.1), {}).admissible(1.0, 1.0)
    assert not Verdict("x", 3, (math.nan, math.nan), fine).admissible(1.0, 1.0)


def test_measures_are_checked():
    assert check_measures([*GUARDED, GUARDED[0]]) == GUARDED
    with pytest.raises(ConfigError, match=r"unknown measure 'voxel_iuo' .*voxel_iou"):
        check_measures(["voxel_iuo"])
    with pytest.raises(ConfigError, match="no measure to tune by"):
        check_measures([])
