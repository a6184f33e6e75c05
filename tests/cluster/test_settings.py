"""Validation of the cluster flags."""

from __future__ import annotations

import pytest

from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"cpus_per_worker": 0}, "--cpus_per_worker is 0"),
        ({"gpus_per_worker": 2.0}, "--gpus_per_worker is 2: .* one GPU"),
        ({"gpus_per_worker": -0.5}, "--gpus_per_worker is -0.5"),
        ({"max_retries": -1}, "--max_retries is -1"),
        ({"address": "ray://head:10001"}, "--ray_address is ray://head:10001, a Ray Client"),
    ],
)
def test_values_out_of_range_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        ClusterSettings(**given)


def test_limits_are_accepted():
    ClusterSettings(1, 1, 0.0, "auto", 0)
    ClusterSettings(gpus_per_worker=1.0)
