"""Schedules of published caches against their rules written out, as the driver runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fast_sam3d.errors import ConfigError
from fast_sam3d.sampling.guide import Guidance
from fast_sam3d.sampling.when.guided_stride import GuidedStride
from fast_sam3d.sampling.when.magnitude import Magnitude, resampled
from fast_sam3d.sampling.when.widening import Widening
from tests.sampling.reference import GRID, ODES, driven

FIELD = ODES["forced"][0]


def evaluated(when: dict[str, Any], grid: int | Sequence[float], guidance: Guidance | None = None) -> list[int]:
    """The steps that ran on a grid, or on a uniform one of so many steps."""
    times = [i / grid for i in range(grid + 1)] if isinstance(grid, int) else grid
    return driven({"when": when}, FIELD, times, guidance=guidance)[1].evaluated


def test_widening_by_hand() -> None:
    """Distances 2, 2.75, 3.5, 4.25, 5 ... rounded down, from step 4 on; 24 is the last."""
    assert evaluated({"name": "widening"}, 25) == [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 24]
    assert evaluated({"name": "widening", "growth": 3.0}, 50) == [0, 1, 2, 3, 4, 6, 11, 19, 30, 44, 49]


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 25])
def test_widening_in_the_limits(steps: int) -> None:
    assert evaluated({"name": "widening", "first": 1.0, "growth": 0.0}, steps) == list(range(steps))
    assert evaluated({"name": "widening", "warmup": 100}, steps) == list(range(steps))
    assert evaluated({"name": "widening", "first": 1000.0, "warmup": 1}, steps) == sorted({0, steps - 1})


def slow_magnitude(ratios: list[float], steps: int, threshold: float, longest: int, warmup: int) -> list[int]:
    ran = list(range(min(warmup, steps)))
    while ran[-1] < steps - 1:
        step = ran[-1] + 1
        while step < steps - 1:
            products = [np.prod(ratios[ran[-1] : upto]) for upto in range(ran[-1] + 1, step + 1)]
            if sum(abs(1 - p) for p in products) >= threshold or step - ran[-1] > longest:
                break
            step += 1
        ran.append(step)
    return ran


@pytest.mark.parametrize("threshold", [0.01, 0.06, 0.12, 0.5, 100.0])
@pytest.mark.parametrize(("longest", "warmup"), [(1, 1), (2, 5), (4, 3), (30, 1)])
def test_magnitude_against_a_slow_reference(threshold: float, longest: int, warmup: int) -> None:
    ratios = (1 + 0.1 * np.sin(np.arange(24) * 1.7)).tolist()
    when = {"name": "magnitude", "ratios": ratios, "threshold": threshold, "longest": longest, "warmup": warmup}
    assert evaluated(when, 25) == slow_magnitude(ratios, 25, threshold, longest, warmup)


def test_ratios_of_one_skip_up_to_the_limit() -> None:
    when = {"name": "magnitude", "ratios": [1.0] * 24, "longest": 3, "warmup": 1}
    assert evaluated(when, 25) == [0, 4, 8, 12, 16, 20, 24]


def test_ratios_are_resampled_for_other_step_counts() -> None:
    ratios = [1.05] * 24
    assert resampled(ratios, 24) == ratios
    assert np.prod(resampled(ratios, 12)) == pytest.approx(np.prod(ratios))
    assert np.prod(resampled(ratios, 48)) == pytest.approx(np.prod(ratios))
    assert resampled([0.5, 1.0, 2.0], 1) == [0.125]
    for steps in (1, 2, 3, 12, 60):
        ran = evaluated({"name": "magnitude", "ratios": ratios}, steps)
        assert ran[0] == 0 and ran[-1] == steps - 1


STOCK = Guidance(7.0, ((0, 500),))


def test_a_stride_restarts_where_the_pipelines_guidance_ends() -> None:
    """On SAM 3D's grid that is after step 18: t = 19 / 37 is the first above a half."""
    when = {"name": "guided_stride", "stride": 4, "late": 3, "warmup": 2}
    assert GRID[18] <= 0.5 < GRID[19]
    assert evaluated(when, GRID, STOCK) == [0, 1, 5, 9, 13, 17, 19, 22, 24]
    # Each leaf with an interval of its own: guidance ends with the last of them.
    assert evaluated(when, GRID, Guidance(7.0, ((0, 100), (0, 500)))) == [0, 1, 5, 9, 13, 17, 19, 22, 24]
    assert evaluated({**when, "warmup": 1}, 10, Guidance(1.0, ((200, 300),))) == [0, 4, 7, 9]


def test_step_at_the_interval_end_is_classified_as_by_the_pipeline() -> None:
    """Compared in float32, as there: 0.3 of a float32 grid is a little more, and 1000 * 0.3 is 300 all the same."""
    times = [0.0, 0.1, 0.2, float(np.float32(0.3)), 0.5, 0.75, 1.0]
    when = {"name": "guided_stride", "stride": 9, "late": 9, "warmup": 1}
    assert times[3] > 0.3
    assert evaluated(when, times, Guidance(1.0, ((0, 300),))) == [0, 4, 5]


def test_an_end_that_is_set_takes_precedence_over_the_pipelines() -> None:
    when = {"name": "guided_stride", "stride": 3, "late": 2, "end": 0.25, "warmup": 1}
    for guidance in (None, STOCK):
        assert evaluated(when, 12, guidance) == [0, 3, 4, 6, 8, 10, 11]  # the first time above a quarter is 4 / 12


@pytest.mark.parametrize("guidance", [None, Guidance(7.0, ((0, 1000),))])
def test_guidance_at_all_times_or_at_none_is_a_plain_stride(guidance: Guidance | None) -> None:
    when = {"name": "guided_stride", "stride": 3, "late": 3, "warmup": 2}
    assert evaluated(when, 25, guidance) == [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Magnitude, {}, r"ratios is \(\): give the measured ratio"),
        (Magnitude, {"ratios": "1"}, "ratios is '1'"),
        (Magnitude, {"ratios": [1.0, 0.0]}, "ratios is 0.0"),
        (Magnitude, {"ratios": [1.0], "threshold": 0}, "threshold is 0"),
        (Magnitude, {"ratios": [1.0], "longest": 0}, "longest is 0"),
        (GuidedStride, {"end": 1.5}, "end is 1.5"),
        (GuidedStride, {"late": 0}, "late is 0"),
        (Widening, {"first": 0.5}, "first is 0.5"),
        (Widening, {"growth": -1}, "growth is -1"),
        (Widening, {"warmup": 0}, "warmup is 0"),
    ],
)
def test_invalid_settings_are_refused(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
