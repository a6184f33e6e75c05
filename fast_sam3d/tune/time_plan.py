"""What a time limit allows: how many objects, and whether the network is evaluated on the schedules' own states.

run      one baseline run to the end of the structured latent
search   for each object, calls of the dynamic programming (`path_search.cost`), or of following the schedules found
         on the baselines alone
check    for each object, one baseline run and one run of each way
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fast_sam3d.errors import ConfigError

__all__ = ["Costs", "TimePlan", "make_plan"]

SLACK = 1.15
"""Times are this much longer than planned: installing, fitting, comparing."""
SEARCH_SHARE = 0.65
"""Of the time, for calibration; the rest is for the check."""
FEWEST = 2
"""Objects of a calibration."""
FEWEST_FULL = 4
"""Objects for which a search on the schedules' own states is worth its time; fewer are better used for more objects."""


@dataclass(frozen=True)
class Costs:
    """Measured and counted costs.

    Args:
        run: seconds of a baseline run. calls: network calls of it.
        full: by stage, seconds for each object of a search on the schedules' own states. short: on the baselines.
        levels: budgets that are checked, each as calls of both samplers.
    """

    run: float
    calls: int
    full: Mapping[str, float]
    short: Mapping[str, float]
    levels: tuple[int, ...]

    @property
    def call(self) -> float:
        """Seconds of a network call, with its share of the rest."""
        return self.run / self.calls

    def object(self, full: tuple[str, ...]) -> float:
        """Seconds that one more object of the calibration takes; full: the stages that are searched so."""
        return SLACK * (self.run + sum((self.full if s in full else self.short)[s] for s in self.short))

    def check(self) -> float:
        """Seconds of one object of the check: each budget once with its path, and once with fewer steps."""
        return SLACK * (self.run + 2 * self.call * sum(self.levels))


@dataclass(frozen=True)
class TimePlan:
    """What is done.

    Args:
        objects: to calibrate on. full: stages that are searched on the schedules' own states.
        checked: objects of the check.
        seconds: expected.
    """

    objects: int
    full: tuple[str, ...]
    checked: int
    seconds: float

    def sentence(self, costs: Costs, seconds: float) -> str:
        """For the log."""
        how = "on the baseline runs alone"
        if self.full:
            parts = "" if len(self.full) == len(costs.full) else f" ({', '.join(self.full)} only)"
            how = f"evaluating every step that a schedule may take{parts}"
        return (
            f"one run takes {costs.run:.1f} s ({costs.calls} network calls): {seconds / 60:.3g} minutes allow"
            f" {self.objects} objects to calibrate on, {how}, and {self.checked} to check the result on, expected"
            f" {self.seconds / 60:.1f} minutes"
        )


def make_plan(costs: Costs, seconds: float, objects: int, checked: int, spent: float = 0.0) -> TimePlan:
    """The best plan within the time.

    Args:
        costs: of one object.
        seconds: that are left.
        objects, checked: at most so many; at least 1.
        spent: seconds before, for the message.

    Raises:
        ConfigError: the shortest calibration and check take longer.
    """
    least = min(FEWEST, objects)
    check = costs.check()
    stages = tuple(costs.full)
    for full in (stages, stages[:1], ()):
        own = costs.object(full)
        most = SEARCH_SHARE * seconds if full else seconds - check
        count = min(objects, math.floor(most / own))
        if count >= (min(FEWEST_FULL, objects) if full else least) and count * own + check <= seconds:
            tested = max(1, min(checked, math.floor((seconds - count * own) / check)))
            return TimePlan(count, full, tested, count * own + tested * check)
    needed = spent + least * costs.object(()) + check
    raise ConfigError(
        f"one run takes {costs.run:.1f} s, and {(spent + seconds) / 60:.2g} minutes do not suffice for the shortest"
        f" calibration with a check: give --minutes {math.ceil(needed / 6) / 10:g} or more"
    )
