"""Budgets of network calls, each with the schedules of both samplers that keep to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fast_sam3d.errors import ConfigError
from fast_sam3d.tune.path_search import FoundPath

__all__ = ["Level", "best_within", "budgets_of", "fast_of"]

NAMES = {"ss": "sparse structure", "slat": "structured latent"}
DEFAULT = (15 / 44, 7 / 38)
"""Share of the baseline's calls in each sampler, as of the preset `default` under the published samplers."""
_BESIDE = ((22 / 44, 10 / 38), DEFAULT, (11 / 44, 6 / 38), (8 / 44, 4 / 38))
_MORE = ((30 / 44, 14 / 38),)


@dataclass(frozen=True)
class Level:
    """One budget.

    Args:
        paths: by stage.
    """

    paths: Mapping[str, FoundPath]

    @property
    def calls(self) -> int:
        """Network calls of both samplers."""
        return sum(path.calls for path in self.paths.values())

    def methods(self, live: bool) -> dict[str, Any]:
        """Both stages, as a configuration has them; live: see `FoundPath.method`."""
        return {stage: path.method(live) for stage, path in self.paths.items()}


def budgets_of(
    calls: Mapping[str, int], least: Mapping[str, int], asked: Sequence[int] | None = None, more: bool = False
) -> list[dict[str, int]]:
    """The budgets to look at, by stage, the one that is asked for first, then from many calls to few.

    Args:
        calls: of the baseline. least: of the shortest path.
        asked: of both samplers together, or of each; None: a share as of `DEFAULT`.
        more: one with more calls, too.

    Raises:
        ConfigError: fewer calls than the shortest path has, or as many as the baseline.
    """
    shares = [dict(zip(calls, share, strict=True)) for share in (*(_MORE if more else ()), *_BESIDE)]
    first = dict(zip(calls, DEFAULT, strict=True))
    if asked is not None:
        own = _of_each(calls, least, asked)
        first = {stage: own[stage] / calls[stage] for stage in calls}
        shares = [{s: min(factor * first[s], 0.9) for s in calls} for factor in (1.4, 0.7, 0.5)]
    found = []
    for share in (first, *shares):
        # One more than the shortest path, so that there is a choice.
        budget = {s: max(round(share[s] * calls[s]), least[s] + (asked is None)) for s in calls}
        if budget not in found:
            found.append(budget)
    return found


def _of_each(calls: Mapping[str, int], least: Mapping[str, int], asked: Sequence[int]) -> dict[str, int]:
    """The calls of each stage that are asked for."""
    text = ",".join(map(str, asked))
    if len(asked) == len(calls):
        own = dict(zip(calls, asked, strict=True))
    else:
        (whole,) = asked
        if whole < sum(least.values()):
            parts = " and ".join(f"{least[stage]} of the {NAMES[stage]}" for stage in calls)
            raise ConfigError(
                f"--calls {text} is below the shortest path, {sum(least.values())} network calls ({parts}): give more"
            )
        weights = [share * calls[stage] for share, stage in zip(DEFAULT, calls, strict=True)]
        one, other = calls
        first = min(max(round(whole * weights[0] / sum(weights)), least[one]), whole - least[other])
        own = {one: first, other: whole - first}
    for stage, number in own.items():
        if number < least[stage]:
            raise ConfigError(
                f"--calls {text} has {number} for the {NAMES[stage]}, below its shortest path of {least[stage]}: give"
                f" at least {','.join(str(least[s]) for s in calls)}"
            )
        if number >= calls[stage]:
            raise ConfigError(
                f"--calls {text} has {number} for the {NAMES[stage]}, and the baseline makes {calls[stage]}: give fewer"
            )
    return own


def best_within(found: Mapping[int, FoundPath], budget: int) -> FoundPath:
    """The schedule with the most calls within a budget; the shortest where all have more."""
    return found[max((calls for calls in found if calls <= budget), default=min(found))]


def fast_of(levels: Sequence[Level], chosen: int) -> int:
    """The number of the level with about half the calls of another one."""
    half = levels[chosen].calls / 2
    return min(range(len(levels)), key=lambda k: (abs(levels[k].calls - half), levels[k].calls))
