"""Paths: the steps that are listed, on the solve that they were chosen for and on others."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.model.flow import time_grid
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.guide import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.when.path import Path
from tests.sampling.reference import ODES, driven

NODES = [0, 3, 7, 8, 13, 18, 19, 22]
STOCK = Guidance(7.0, ((0, 500),))


def evaluated(steps: int, rescale: float = 3.0, guidance: Guidance | None = STOCK, **settings: Any) -> list[int]:
    """The steps that ran."""
    when = {"name": "path", "nodes": NODES, **settings}
    times = time_grid(steps, rescale).tolist()
    return driven({"when": when}, ODES["forced"][0], times, guidance=guidance)[1].evaluated


def slow_stretch(nodes: list[int], ours: tuple[int, int], theirs: tuple[int, int]) -> dict[int, int]:
    """Each node by its share of its part, in fractions; (guided, steps) of both solves."""
    (split, steps), (guided, wanted) = ours, theirs
    found = {}
    for index, node in enumerate(nodes):
        if split in (0, steps) or guided in (0, wanted):
            first, last, exact = 0, wanted - 1, Fraction(node, steps) * wanted
        elif node < split:
            first, last, exact = 0, guided - 1, Fraction(node, split) * guided
        else:
            first, last, exact = guided, wanted - 1, guided + Fraction(node - split, steps - split) * (wanted - guided)
        found[max(first, min(last, math.floor(exact + Fraction(1, 2))))] = index
    return found


def test_the_network_runs_at_the_nodes_alone() -> None:
    assert evaluated(25) == NODES, "not at the last step either"
    assert evaluated(25, nodes=[0]) == [0]
    assert evaluated(25, nodes=[0, 24]) == [0, 24]
    assert evaluated(25, nodes=list(range(25))) == list(range(25))


def test_calls_saved_by_a_path_are_counted() -> None:
    times = time_grid(25, 3.0).tolist()
    _, record, _ = driven({"when": {"name": "path", "nodes": NODES}}, ODES["forced"][0], times, guidance=STOCK)
    assert (record.calls, record.saved) == (6 * 2 + 2, 44 - 14)


def test_other_grids_by_hand() -> None:
    assert evaluated(50) == [0, 6, 14, 16, 26, 36, 38, 44]  # 38 of 50 steps are guided, twice 19
    assert evaluated(25, rescale=0.3) == [0, 1, 2, 3, 4, 5, 6, 16]  # 6 of 25
    assert evaluated(25, guidance=None) == NODES
    assert evaluated(50, guidance=Guidance(7.0, ((0, 1000),))) == [2 * node for node in NODES]
    assert evaluated(50, guided=0) == [2 * node for node in NODES]
    assert evaluated(1) == [0]


@pytest.mark.parametrize("ours", [(19, 25), (0, 25), (25, 25), (6, 25), (1, 25), (24, 25)])
def test_stretched_nodes_equal_the_slow_reference(ours: tuple[int, int]) -> None:
    path = Path(nodes=tuple(NODES), guided=ours[0])
    for steps in (1, 2, 3, 7, 10, 25, 26, 50, 100):
        for guided in range(steps + 1):
            found = path.on(steps, guided)
            assert found == slow_stretch(NODES, ours, (guided, steps))
            assert min(found) == 0 and max(found) < steps


def test_nodes_that_fall_together_keep_the_numbers_of_those_after_them() -> None:
    """On three guided steps of five, three of six nodes are left, and the first after guidance keeps its number."""
    times, history = [i / 5 for i in range(6)], History[Evaluation](1)
    decide = Path(nodes=tuple(NODES)).start(times, Guidance(7.0, ((0, 500),)))
    numbers = {}
    for step, t in enumerate(times[:-1]):
        if step == 0 or decide(step, history, {}):
            history.push(Evaluation(t, {}, {"x": torch.zeros(1)}))
            numbers[step] = history.number
    assert numbers == {0: 1, 1: 4, 2: 6, 3: 7, 4: 8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": "0"}, "nodes is '0': give the steps"),
        ({"nodes": 3}, "nodes is 3: give the steps"),
        ({"nodes": []}, r"nodes is \[\]: give the steps"),
        ({"nodes": [1, 2]}, r"nodes is \[1, 2\]: begin with 0"),
        ({"nodes": [0, 5, 5]}, r"nodes is \[0, 5, 5\]: .* in ascending order"),
        ({"nodes": [0, 5, 4]}, "in ascending order"),
        ({"nodes": [0, 25]}, "nodes is 25: give a whole number from 0 to 24"),
        ({"nodes": [0, 1.5]}, "nodes is 1.5"),
        ({"nodes": [0, True]}, "nodes is True"),
        ({"steps": 0}, "steps is 0"),
        ({"guided": 26}, "guided is 26: give a whole number from 0 to 25"),
        ({"guided": -1}, "guided is -1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Path(**settings)


def test_settings_are_written_as_they_are_read() -> None:
    when = {"name": "path", "nodes": NODES, "steps": 25, "guided": 19}
    assert build_stage_method({"when": when}).settings()["when"] == when
