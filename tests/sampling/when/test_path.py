"""Paths: the steps that are listed, on the solve that they were chosen for and on others."""

from __future__ import annotations

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


def slow_places(nodes: list[int], ours: tuple[int, int, str], theirs: tuple[int, int, str]) -> dict[int, int]:
    """In fractions; of both solves the guided steps, all steps and rescale_t."""
    (split, steps, rescale), (guided, wanted, other) = ours, theirs
    if (split, steps) == (guided, wanted):
        return {node: index for index, node in enumerate(nodes)}

    def t(step: int, of: int, factor: str) -> Fraction:
        share = Fraction(step, of)
        return share / (share + Fraction(factor) * (1 - share))

    found = {}
    for index, node in enumerate(nodes):
        place, end, t_end, candidates = t(node, steps, rescale), Fraction(1), Fraction(1), range(wanted)
        begin = t_begin = Fraction(0)
        if 0 < split < steps and 0 < guided < wanted:
            if node < split:
                end, t_end, candidates = t(split, steps, rescale), t(guided, wanted, other), range(guided)
            else:
                begin, t_begin = t(split, steps, rescale), t(guided, wanted, other)
                candidates = range(guided, wanted)
        place = t_begin + (place - begin) / (end - begin) * (t_end - t_begin)
        distances = {step: abs(t(step, wanted, other) - place) for step in candidates}
        found[min(distances, key=lambda step: (distances[step], step))] = index
    return found


def test_the_network_runs_at_the_nodes_alone() -> None:
    assert evaluated(25) == NODES, "not at the last step either"
    assert evaluated(25, nodes=[0]) == [0]
    assert evaluated(25, nodes=[0, 24]) == [0, 24]
    assert evaluated(25, nodes=list(range(25))) == list(range(25))


def test_the_default_path_strides_by_four_under_guidance_and_by_three_after_it() -> None:
    default = Path()
    assert list(default.nodes) == [*range(0, default.guided, 4), *range(default.guided, default.steps, 3)]


def test_calls_saved_by_a_path_are_counted() -> None:
    times = time_grid(25, 3.0).tolist()
    _, record, _ = driven({"when": {"name": "path", "nodes": NODES}}, ODES["forced"][0], times, guidance=STOCK)
    assert (record.calls, record.saved) == (6 * 2 + 2, 44 - 14)


def test_other_grids_by_hand() -> None:
    assert evaluated(50) == [2 * node for node in NODES]  # 38 of 50 steps are guided, twice 19
    # Nodes at t = 0, .04, .12, .14, .27, .46, .51, .71; steps at 0, .12, .23, .31, .39, .45, .51 ... .68, .71, .73.
    assert evaluated(25, rescale=0.3) == [0, 1, 2, 5, 6, 11]
    for other in (None, Guidance(7.0, ((0, 1000),))):
        assert evaluated(25, guidance=other) == NODES
        assert evaluated(50, guidance=other) == [2 * node for node in NODES]
    assert evaluated(50, guided=0) == [2 * node for node in NODES]
    assert evaluated(25, rescale=1.0, rescale_t=1.0, guided=0) == NODES
    assert evaluated(1) == [0]


@pytest.mark.parametrize("split", [19, 0, 25, 6, 1, 24])
def test_places_on_other_solves_equal_the_slow_reference(split: int) -> None:
    path = Path(nodes=tuple(NODES), guided=split)
    for steps, rescale in ((1, "1"), (2, "3"), (3, "0.3"), (7, "3"), (25, "3"), (25, "0.3"), (50, "1")):
        for guided in range(steps + 1):
            found = path.on(time_grid(steps, float(rescale)).tolist(), guided)
            expected = slow_places(NODES, (split, 25, "3"), (guided, steps, rescale))
            if steps == 50:  # ties, which rounding decides
                assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=False))
            else:
                assert found == expected
            assert min(found) == 0 and max(found) < steps and list(found) == sorted(found)


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
        ({"steps": 10**9}, "steps is 1000000000: give a whole number from 1 to 1000"),
        ({"guided": 26}, "guided is 26: give a whole number from 0 to 25"),
        ({"guided": -1}, "guided is -1"),
        ({"rescale_t": 0}, "rescale_t is 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Path(**settings)


def test_settings_are_written_as_they_are_read() -> None:
    when = {"name": "path", "nodes": NODES, "steps": 25, "guided": 19, "rescale_t": 3.0}
    assert build_stage_method({"when": when}).settings()["when"] == when
