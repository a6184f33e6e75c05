"""Budgets, the time plan, and the choice of objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.errors import ConfigError
from fast_sam3d.tune.cases import cases_of
from fast_sam3d.tune.levels import best_within, budgets_of
from fast_sam3d.tune.path_search import FoundPath
from fast_sam3d.tune.time_plan import Costs, make_plan

CALLS, LEAST = {"ss": 44, "slat": 38}, {"ss": 2, "slat": 2}


def test_budgets_of_the_published_samplers() -> None:
    assert budgets_of(CALLS, LEAST)[0] == {"ss": 15, "slat": 7}
    assert {"ss": 22, "slat": 10} in budgets_of(CALLS, LEAST)
    assert budgets_of(CALLS, LEAST, (11, 5))[0] == {"ss": 11, "slat": 5}
    assert budgets_of(CALLS, LEAST, (22,))[0] == {"ss": 15, "slat": 7}
    assert budgets_of(CALLS, LEAST, (4,))[0] == {"ss": 2, "slat": 2}
    with pytest.raises(ConfigError, match="below the shortest path, 4 network calls"):
        budgets_of(CALLS, LEAST, (3,))


def test_a_budget_takes_the_schedule_below_it() -> None:
    found = {n: FoundPath("ss", (0,), ((),), ((),), n, 25, 19, (0.1,)) for n in (4, 9)}
    assert [best_within(found, n).calls for n in (3, 4, 8, 9, 30)] == [4, 4, 4, 9, 9]


COSTS = Costs(2.0, 80, {"ss": 6.0, "slat": 14.0}, {"ss": 2.0, "slat": 2.0}, levels=(22, 16, 32))


def test_the_plan_keeps_to_the_time() -> None:
    for seconds in (30.0, 60.0, 120.0, 600.0, 6000.0):
        plan = make_plan(COSTS, seconds, 8, 8)
        assert plan.seconds <= seconds and plan.objects >= 2 and plan.checked >= 1
    assert make_plan(COSTS, 6000.0, 8, 8).objects == 8 and make_plan(COSTS, 6000.0, 8, 8).full == ("ss", "slat")
    assert make_plan(COSTS, 90.0, 8, 8).full == ("ss",) and not make_plan(COSTS, 30.0, 8, 8).full
    with pytest.raises(ConfigError, match=r"one run takes 2.0 s, and 0.33 minutes do not suffice .* --minutes 0\.4"):
        make_plan(COSTS, 20.0, 8, 8)
    with pytest.raises(ConfigError, match=r"and 0.33 minutes do not suffice .* --minutes 0\.8"):
        make_plan(COSTS, -5.0, 8, 8, spent=25.0)  # what was spent counts


def test_few_pictures_are_checked_with_other_seeds(tmp_path: Path) -> None:
    checkpoint = Checkpoint("x", tmp_path, "sam3d", "so", "native")
    for number in range(5):
        Image.fromarray(np.full((8, 8, 4), 200, np.uint8)).save(tmp_path / f"{number}.png")
        cases = cases_of(tmp_path, checkpoint, 8, 4, 42)
        assert not set(cases.calibration) & set(cases.check) and len(cases.calibration) >= 2
        names = {name for name, _ in cases.calibration}
        assert cases.same_objects == (number < 3)
        assert cases.same_objects or not names & {name for name, _ in cases.check}
    with pytest.raises(ConfigError, match="add --image_path DIR"):
        cases_of(None, checkpoint, 8, 4, 42)
