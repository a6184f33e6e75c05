"""Cache of all measurements of a search, with the time that they took.

The search depends only on these values, including the time. So an interrupted search resumes by running again from the
start: cached measurements return at once.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

from fast_sam3d.bench.record import Record, Rows
from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.bench.summary import Number
from fast_sam3d.metrics import by_group, median_and_error
from fast_sam3d.tune.drift import Verdict, share_of

Case: TypeAlias = tuple[str, int]
"""An object and a noise seed."""
Runner: TypeAlias = Callable[[Sequence[str], Case], Rows]
"""Runs methods, named by their overrides, on one case in alternating order; they include `OFF`.

Each row has the columns object, seed, method, error (empty if none), seconds, cpu_seconds, network_calls, operations
(NaN if not counted) and, except for `OFF`, drift_<measure>.
"""
Cost: TypeAlias = Literal["seconds", "cpu_seconds", "calls", "operations"]
COLUMNS: dict[str, str] = {
    "seconds": "seconds",
    "cpu_seconds": "cpu_seconds",
    "calls": "network_calls",
    "operations": "operations",
}
"""Cost to minimise, and its column."""
DRIFT = "drift_"


class Measurements:
    """Measured rows and their verdicts.

    Args:
        run: measures methods on a case.
        measures: to judge by.
        cost: to minimise.
        record: on disk, with the measurements of an interrupted search.
        clock: returns seconds.

    Attributes:
        spent: seconds of all measurements so far, including the time between them.
    """

    def __init__(
        self, run: Runner, measures: Sequence[str], cost: Cost = "seconds", record: Record | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._run = run
        self._record = record
        self._clock = clock
        self._since = clock()
        self.measures = tuple(measures)
        self.cost = cost
        self.spent = 0.0
        # By method and case: its row, and that of the unaccelerated run beside it.
        self._pairs: dict[str, dict[Case, tuple[dict[str, Any], dict[str, Any]]]] = {}
        self._verdicts: dict[tuple[str, tuple[Case, ...]], Verdict] = {}

    def measure(self, methods: Sequence[str], case: Case) -> None:
        """Measure methods and the unaccelerated pipeline on one case."""
        asked = [OFF, *methods]
        # Independent of the methods' order: the order of the runs is random.
        key = f"{case[0]} seed {case[1]}: {hashlib.sha256(repr(sorted(asked)).encode()).hexdigest()[:16]}"
        if self._record is not None and key in self._record.rows:
            rows = self._record.rows[key]
            spent, self._since = float(rows[0]["spent"]), self._clock()
        else:
            rows = self._run(asked, case)
            now = self._clock()
            spent, self._since = now - self._since, now
            rows = [{**row, "spent": spent} for row in rows]
            if self._record is not None:
                self._record.add(key, rows)
        self.spent += spent
        base = next(row for row in rows if row["method"] == OFF)
        for row in rows:
            self._pairs.setdefault(row["method"], {})[case] = (row, base)
        # All verdicts depend on the seed noise.
        changed = {row["method"] for row in rows}
        self._verdicts = {
            key: verdict
            for key, verdict in self._verdicts.items()
            if OTHER_SEED not in changed and key[0] not in changed
        }

    def cases(self, name: str) -> list[Case]:
        """Cases on which a method was measured."""
        return list(self._pairs.get(name, ()))

    def usable(self, case: Case) -> bool:
        """Whether the unaccelerated runs of both seeds succeeded."""
        pair = self._pairs.get(OTHER_SEED, {}).get(case)
        return pair is not None and not any(row["error"] for row in pair)

    def verdict(self, name: str, cases: Sequence[Case]) -> Verdict:
        """The verdict on a method, from those of some cases on which it was measured."""
        asked = (name, tuple(cases))
        if asked not in self._verdicts:
            self._verdicts[asked] = self._judge(name, cases)
        return self._verdicts[asked]

    def _judge(self, name: str, cases: Sequence[Case]) -> Verdict:
        own, noise = self._pairs.get(name, {}), self._pairs.get(OTHER_SEED, {})
        known = [case for case in cases if case in own and self.usable(case)]
        groups = [case[0] for case in known]
        shares = {}
        for measure in self.measures:
            drifts = [own[case][0].get(DRIFT + measure, math.nan) for case in known]
            floors = [noise[case][0].get(DRIFT + measure, math.nan) for case in known]
            if any(map(math.isfinite, floors)):
                shares[measure] = share_of(drifts, floors, groups)
        return Verdict(
            name,
            len(set(groups)),
            self._speed([own[case] for case in known], groups),
            shares,
            sum(bool(own[case][0]["error"]) for case in known),
        )

    def stage_seconds(self, name: str, stage: str, cases: Sequence[Case]) -> float:
        """Mean seconds of a stage over some cases; NaN if unknown."""
        found = [self._pairs[name][case][0].get(f"{stage}_seconds", math.nan) for case in cases]
        known = [value for value in found if math.isfinite(value)]
        return sum(known) / len(known) if known else math.nan

    def saved(self, name: str, other: str, stages: Sequence[str], cases: Sequence[Case]) -> float:
        """Median of the seconds that a method saves in some stages over another one, relative to the unaccelerated run.

        Args:
            cases: only those on which both were measured are used; NaN without any.
        """
        first, second = self._pairs.get(name, {}), self._pairs.get(other, {})
        parts = []
        for case in cases:
            if case in first and case in second:
                own, base = (
                    _sum(row.get(f"{stage}_seconds", math.nan) for stage in stages) / plain.get("seconds", math.nan)
                    for row, plain in (first[case], second[case])
                )
                parts.append(base - own)
        known = [part for part in parts if math.isfinite(part)]
        return statistics.median(known) if known else math.nan

    def _speed(self, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], groups: Sequence[str]) -> Number:
        column = COLUMNS[self.cost]
        ratios = []
        for own, base in pairs:
            mine, plain = own.get(column, math.nan), base.get(column, math.nan)
            ratios.append(plain / mine if mine > 0 else math.nan)
        return median_and_error(by_group(ratios, groups))


def _sum(values: Iterable[float]) -> float:
    """Sum of the finite values; NaN without any."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) if known else math.nan
