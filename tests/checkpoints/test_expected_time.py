"""What is said of the time on a CPU."""

from __future__ import annotations

import re

import torch

from fast_sam3d.checkpoints import expected_time
from fast_sam3d.checkpoints.expected_time import cpu_notice
from fast_sam3d.native.settings import PUBLISHED
from tests.native.tiny import SETTINGS


def test_the_published_sizes_have_a_notice_of_hours(monkeypatch) -> None:
    monkeypatch.setattr(expected_time, "_flops", lambda half: 50e9)
    assert "3.2 hours or more at the 50 GFLOP/s" in cpu_notice(PUBLISHED, None)
    assert "float16 is slow" not in cpu_notice(PUBLISHED, None)
    assert "float16 is slow" in cpu_notice(PUBLISHED, torch.float16)


def test_the_speed_is_measured() -> None:
    assert float(re.search(r"at the (\d+) GFLOP/s", cpu_notice(PUBLISHED, None))[1]) > 0


def test_small_sizes_have_none() -> None:
    assert cpu_notice(SETTINGS, None) is None
