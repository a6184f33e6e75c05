"""A schedule of noise levels, at the steps of the grid that are nearest to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import Real, Settings, Whole, check, setting
from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import Evaluation, Leaves
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Aligned(When):
    """The steps nearest to given levels of noise, each relative to the data: (1 - t) / t.

    For another number of evaluations the logs of the levels are interpolated, as the authors do. The first level stands
    for the first step and the last one for the end of the last; where two fall on one step, the later one moves on.

    Source: Align Your Steps (arXiv 2404.14507), table 3, whose levels minimise a bound on the divergence between the
    sampler's distribution and the data's. They are those of one model and of as many evaluations, ten.

    Args:
        levels: descending.
        evaluations: how often the network runs.
    """

    name: ClassVar[str] = "aligned"
    same_for_all_objects: ClassVar[bool] = True
    evaluates_last: ClassVar[bool] = False
    levels: tuple[float, ...] = setting(())
    evaluations: int = setting(10, Whole(1))

    def __post_init__(self) -> None:
        given: Any = self.levels
        Settings.__post_init__(self)
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) < 2:
            raise ConfigError(f"levels is {given!r}: give at least two levels of noise, such as [14.6, 1.9, 0.4, 0.03]")
        for level in given:
            check("levels", level, Real(1e-9, 1e9))
        if any(b >= a for a, b in pairwise(given)):
            raise ConfigError(f"levels is {list(given)}: give them in descending order")
        object.__setattr__(self, "levels", tuple(float(level) for level in given))

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        nodes = frozenset(nearest(self.levels, self.evaluations, times[:-1]))

        def decide(step: int, history: History[Evaluation], x: Leaves) -> bool:
            return step in nodes

        return decide


def nearest(levels: Sequence[float], count: int, times: Sequence[float]) -> list[int]:
    """The steps that start nearest to the levels.

    Args:
        levels: see `Aligned`.
        count: of evaluations.
        times: at which the steps start, ascending.

    Returns:
        ascending; all steps if they are not more than `count`.
    """
    if count >= len(times):
        return list(range(len(times)))
    steps = [0]
    for i in range(1, count):
        place = i * (len(levels) - 1) / count
        before = min(int(place), len(levels) - 2)
        share = place - before
        level = math.exp((1 - share) * math.log(levels[before]) + share * math.log(levels[before + 1]))
        t = 1 / (1 + level)
        close = min(range(len(times)), key=lambda step, t=t: abs(times[step] - t))  # type: ignore[misc]
        steps.append(min(max(close, steps[-1] + 1), len(times) - count + i))
    return steps
