"""Calibration on the stock classes with small random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.fingerprint import difference, fingerprint
from fast_sam3d.bench.record import Record
from fast_sam3d.tune import check
from fast_sam3d.tune.job import Calibration, Request
from tests.stock import sparse_convolution
from tests.stock.build import STOCK
from tests.tune.test_tune_command import CASES


@pytest.fixture(autouse=True)
def _on_cpu():
    with sparse_convolution.on_cpu():
        yield


def test_a_calibration_finds_schedules_that_fit(tmp_path: Path) -> None:
    pipeline = STOCK.build()
    for name, steps in (("ss_generator", 5), ("slat_generator", 4)):
        pipeline.models[name].inference_steps = steps
    with STOCK.running():
        found = Calibration(pipeline, CASES, Request(10.0, calls=(5, 3)), Record(tmp_path, {})).run()
    assert difference(found.fingerprint, fingerprint(adapt(pipeline))) is None
    level = found.levels[found.chosen]
    ours = next(row for row in check.summary(found.rows) if row["kind"] == check.PATH and row["level"] == found.chosen)
    assert ours["failed"] == 0 and ours["ss_calls"][0] == level.paths["ss"].calls <= 5
    handle = fast_sam3d.accelerate(pipeline, level.methods(adapt(pipeline).no_live_layout() is None))
    assert list(handle.methods["ss"]["when"]["nodes"]) == list(level.paths["ss"].nodes)
