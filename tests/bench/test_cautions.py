"""Warnings about few objects and a busy machine."""

from __future__ import annotations

import math
import os

import pytest

from fast_sam3d.bench import cautions


@pytest.fixture
def load(monkeypatch):
    """Sets the machine's load, of 4 cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return lambda value: monkeypatch.setattr(os, "getloadavg", lambda: (value, 0.0, 0.0), raising=False)


def test_few_objects_are_named(load):
    load(0.0)
    assert cautions.before(10, 1, 1) == []
    (one,) = cautions.before(1, 1, 1)
    assert one.startswith("1 object: too few") and "--objects 10" in one
    assert cautions.before(2, 1, 1)[0].startswith("2 objects: too few")


def test_a_loaded_machine_is_named_before_the_runs(load):
    load(3.5)
    (busy,) = cautions.before(12, 2, 1)
    assert "3.5 on 4 cores" in busy
    assert cautions.before(12, 1, 1) == [], "a core is left"
    assert len(cautions.before(12, 1, 4)) == 1, "threads count"


@pytest.mark.parametrize(("share", "threads", "warns"), [(0.95, 1, False), (0.6, 1, True), (0.6, 2, False)])
def test_runs_that_waited_for_a_core_are_named(share, threads, warns):
    rows = [{"error": "", "seconds": 2.0, "cpu_seconds": 2.0 * share}] * 3
    rows += [{"error": "ValueError: no", "seconds": math.nan, "cpu_seconds": math.nan}]
    found = cautions.after(rows, threads)
    assert bool(found) == warns and (not warns or "60 % of a core" in found[0])
