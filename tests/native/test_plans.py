"""Memory plans: their order, what a device gets, and the peaks that the networks have under them."""

from __future__ import annotations

import pytest
import torch

from fast_sam3d.config.compose import MEMORY
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.native.plans import (
    NAMES,
    PLANS,
    DoesNotFitDevice,
    choose,
    expected_peaks,
    next_smaller,
    smallest,
)

GIB = 2**30
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
HALF = torch.float16


def test_the_configuration_names_the_plans() -> None:
    assert MEMORY == NAMES


def test_plans_are_in_order_of_what_they_need() -> None:
    for half in (None, HALF):
        for voxels in (5_000, 20_000, 40_000):
            peaks = [max(expected_peaks(plan, voxels, half).values()) for plan in PLANS.values()]
            assert peaks == sorted(peaks)
    assert next_smaller(smallest()) is None
    assert [next_smaller(PLANS[name]).name for name in NAMES[2:]] == list(NAMES[1:-1])  # type: ignore[union-attr]


def test_auto_takes_the_largest_plan_that_fits() -> None:
    found = [choose("auto", CUDA, HALF, free=gib * GIB) for gib in range(4, 40)]
    places = [list(PLANS).index(plan.name) for plan in found]
    assert places == sorted(places) and set(places) == set(range(len(PLANS)))
    for plan, gib in zip(found, range(4, 40), strict=True):
        assert max(expected_peaks(plan, 20_000, HALF).values()) < gib * GIB


def test_a_device_that_is_too_small_is_refused_with_the_numbers() -> None:
    needed = max(expected_peaks(smallest(), 20_000, HALF).values()) / GIB
    with pytest.raises(DoesNotFitDevice, match=rf"cuda has 1\.0 GiB .* about {needed:.1f} GiB .* 20,000 voxels"):
        choose("auto", CUDA, HALF, free=GIB)
    with pytest.raises(DoesNotFitDevice, match="take a machine with more memory"):
        choose("8GB", CPU, None, free=GIB)


def test_a_plan_that_is_too_large_is_refused_with_the_numbers() -> None:
    with pytest.raises(DoesNotFitDevice, match=r"memory plan all needs about .* has 6\.0 GiB .* leave .* at auto"):
        choose("all", CUDA, HALF, free=6 * GIB)
    assert choose("8GB", CUDA, HALF, free=6 * GIB) is PLANS["8GB"]


def test_an_unknown_plan_names_the_known_ones() -> None:
    with pytest.raises(FastSam3dError, match="no memory plan '8gb': give one of auto, 8GB"):
        choose("8gb", CUDA, HALF, free=6 * GIB)


def test_a_device_that_does_not_say_gets_the_smallest_plan() -> None:
    unknown = torch.device("meta")
    assert choose("auto", unknown, None) is smallest() and choose("24GB", unknown, None) is PLANS["24GB"]


def test_this_machine_says_how_much_is_free() -> None:
    plan = choose("auto", CPU, None, sizes={"ss_generator": (100, 200)})
    assert plan.name in PLANS
