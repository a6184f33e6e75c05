"""Means and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from fast_sam3d import metrics


def test_the_error_of_a_mean_ignores_values_that_are_not_finite():
    mean, error = metrics.mean_and_error([1.0, 2.0, 3.0, np.nan, np.inf])
    assert (mean, error) == (2.0, pytest.approx(1 / 3**0.5))
    for centre in (metrics.mean_and_error, metrics.median_and_error):
        assert centre([4.0, np.nan])[0] == 4.0 and np.isnan(centre([4.0, np.nan])[1])
        assert np.isnan(centre([])).all()


def test_the_error_of_a_median_is_bootstrapped():
    # Of a normal sample sqrt(pi / 2) as large; with a few values far away it hardly moves.
    values = np.random.default_rng(0).normal(size=2000)
    expected = (np.pi / 2) ** 0.5 / 2000**0.5
    assert metrics.median_and_error(values)[1] == pytest.approx(expected, rel=0.15)
    far = np.concatenate([values, np.full(20, 180.0)])
    assert metrics.median_and_error(far)[1] < 1.3 * expected < metrics.mean_and_error(far)[1] / 5
    assert metrics.median_and_error(far) == metrics.median_and_error(far)
    assert metrics.median_and_error(far)[0] == np.median(far)


def test_paired_differences_by_hand():
    # Differences 1, 1, 4: mean 2, standard deviation sqrt(3), error 1. The pair with a NaN is left out.
    mean, error = metrics.paired_difference([1.0, 2.0, 3.0, np.nan], [0.0, 1.0, -1.0, 9.0])
    assert (mean, error) == (pytest.approx(2.0), pytest.approx(1.0))
    with pytest.raises(ValueError, match="one base value per value"):
        metrics.paired_difference([1.0], [1.0, 2.0])


def test_paired_ratios_give_their_median():
    assert metrics.paired_ratio([1.0, 1.0, 1.0], [2.0, 3.0, 50.0])[0] == 3.0
    assert np.isnan(metrics.paired_ratio([0.0], [1.0])[0])
    assert metrics.paired_ratio([2.0] * 5, [4.0] * 5) == (2.0, 0.0)


def test_seeds_of_one_object_are_averaged():
    values, objects = [1.0, 3.0, 10.0, np.nan, np.nan], ["a", "a", "b", "b", "c"]
    assert metrics.by_group(values, objects)[:2].tolist() == [2.0, 10.0] and np.isnan(
        metrics.by_group(values, objects)[2]
    )
    # Repeating the same objects ten times adds no information about other objects.
    once, again = [1.0, 2.0, 4.0], [1.0, 2.0, 4.0] * 10
    groups = ["a", "b", "c"] * 10
    assert metrics.mean_and_error(metrics.by_group(again, groups)) == metrics.mean_and_error(once)
    with pytest.raises(ValueError, match="one group per value"):
        metrics.by_group([1.0], [])
