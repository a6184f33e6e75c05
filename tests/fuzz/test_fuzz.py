"""A few malformed inputs of every class, always the same ones; `make fuzz` tries others for as long as it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.child import Child
from tests.fuzz.classes import CLASSES


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("name", CLASSES)
def test_malformed_inputs_get_a_sentence_or_a_sound_result(name: str, child: Child) -> None:
    @settings(
        max_examples=CLASSES[name].short, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(CLASSES[name].cases)
    def holds(case: Any) -> None:
        outcome = child.run(name, case)
        assert not outcome.finding, (
            f"{outcome.kind}: python -m tests.fuzz --classes {name} --repeat {case!r}\n{outcome.text}"
        )

    holds()
