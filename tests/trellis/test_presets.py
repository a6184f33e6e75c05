"""Presets on TRELLIS's own classes."""

from __future__ import annotations

from tests.config.test_trellis_presets import PUBLISHED, compare
from tests.trellis.build import random_image
from tests.trellis.stand_ins import on_cpu


def test_calls_and_drift_of_the_presets() -> None:
    pipeline = random_image()
    pipeline.sparse_structure_sampler_params = pipeline.slat_sampler_params = PUBLISHED
    with on_cpu():
        compare(pipeline)
