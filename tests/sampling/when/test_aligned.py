"""Schedules of noise levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fast_sam3d.config.compose import compose
from fast_sam3d.errors import ConfigError
from fast_sam3d.model.flow import time_grid
from fast_sam3d.sampling.when.aligned import Aligned, nearest
from tests.sampling.reference import ODES, driven

VIDEO = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]


def evaluated(steps: int, rescale: float, **settings: Any) -> list[int]:
    """The steps that ran."""
    when = {"name": "aligned", "levels": VIDEO, **settings}
    return driven({"when": when}, ODES["forced"][0], time_grid(steps, rescale).tolist())[1].evaluated


def slow_nearest(levels: list[float], count: int, times: np.ndarray) -> list[int]:
    """Every step's distance to 1 / (1 + level), the level as the authors interpolate it."""
    logs = np.interp(np.linspace(0, 1, count + 1), np.linspace(0, 1, len(levels)), np.log(levels))
    wanted = 1 / (1 + np.exp(logs[:-1]))
    wanted[0] = 0
    return [int(np.abs(times[:-1] - t).argmin()) for t in wanted]


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_levels_of_the_files_by_hand(stage: str) -> None:
    """t = 1 / (1 + level) is 0, .018, .059, .111, .191, .359, .505, .713, .853, .967; 1."""
    when = compose([f"{stage}=aligned"])[0][stage]["when"]
    assert evaluated(25, 3.0, **when) == [0, 1, 4, 7, 10, 16, 19, 22, 23, 24]
    assert evaluated(25, 1.0, **when) == [0, 1, 2, 3, 5, 9, 13, 18, 21, 24]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 10])
def test_nearest_steps_equal_the_slow_reference_on_a_fine_grid(count: int) -> None:
    """So fine that no two levels fall on one step."""
    times = time_grid(5000, 3.0)
    assert nearest(VIDEO, count, times[:-1].tolist()) == slow_nearest(VIDEO, count, times.numpy())


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25, 50])
@pytest.mark.parametrize("rescale", [0.3, 1.0, 3.0])
def test_the_network_runs_as_often_as_asked(steps: int, rescale: float) -> None:
    for count in range(1, 30):
        ran = evaluated(steps, rescale, evaluations=count)
        assert len(ran) == min(count, steps) and ran[0] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"levels is \(\): give at least two"),
        ({"levels": "1"}, "levels is '1'"),
        ({"levels": [1.0]}, r"levels is \[1.0\]: give at least two"),
        ({"levels": [1.0, 0.0]}, "levels is 0.0: give a number"),
        ({"levels": [1.0, 2.0]}, "in descending order"),
        ({"levels": [2.0, 1.0], "evaluations": 0}, "evaluations is 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Aligned(**settings)
