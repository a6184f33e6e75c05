"""What a job reports while it runs: its stages with their steps, and the events of a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fast_sam3d.run.progress import STAGES
from fast_sam3d.telemetry import Report

__all__ = ["Cancelled", "Event", "Kind", "StageRow", "Watch"]

Kind = Literal["waiting", "loading", "started", "stage", "object", "viewable", "done", "failed", "cancelled"]
FINAL: tuple[Kind, ...] = ("done", "failed", "cancelled")

SAMPLERS = ("ss", "slat")
"""Stages with steps, which the acceleration may skip."""
TITLES = STAGES | {
    "results": "writing results",
    "compose": "composing the scene",
    "drift": "measuring the difference",
}


class Cancelled(BaseException):
    """Raised within a cancelled job. Not an Exception, so that nothing takes it for the failure of an object."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a job.

    Args:
        part: which run of the job: "accelerated", "baseline", or "object 3" of a scene.
        stage: its key in `fast_sam3d.run.progress.STAGES`, or "results", "compose", "drift".
        title: for people.
        total: steps; 1 for a stage without steps.
        steps: of each step that is done, whether the network ran (True) or the step was predicted (False).
        seconds: since the stage began; of the whole stage once it is finished.
        finished: the stage is over.
    """

    part: str
    stage: str
    title: str
    total: int
    steps: tuple[bool, ...] = ()
    seconds: float = 0.0
    finished: bool = False

    @property
    def done(self) -> int:
        """Steps that are done."""
        return len(self.steps)

    @property
    def skipped(self) -> int:
        """Steps that were predicted instead of computed."""
        return self.steps.count(False)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a job.

    Args:
        kind: "waiting" (`place` has changed), "loading" (the model is), "started", "stage" (`row` has changed),
            "object" (one of a scene is complete or has failed), "viewable" (`Job.view` has files to look at, the others
            follow), and the last one: "done", "failed" or "cancelled".
        seconds: since the job was submitted.
        message: one sentence for people; may be empty.
        place: jobs before this one; 0 once it has started.
        row: of a stage.
        calls, saved: network calls made and saved so far.
    """

    kind: Kind
    seconds: float
    message: str = ""
    place: int = 0
    row: StageRow | None = None
    calls: float = 0
    saved: float = 0


class Watch:
    """Turns the progress of runs into rows, and ends a cancelled job at its next step.

    Args:
        emit: receives every row that has changed, and the network calls made and saved so far.
        cancelled: whether the job is.
    """

    def __init__(self, emit: Callable[[StageRow, float, float], None], cancelled: Callable[[], bool]) -> None:
        self._emit, self._cancelled = emit, cancelled
        self._rows: dict[tuple[str, str], tuple[StageRow, float]] = {}
        self.part = ""
        self.report: Report | None = None
        """Of an observer that was installed before those of the runs, so that it knows a step when they report it."""

    @property
    def rows(self) -> tuple[StageRow, ...]:
        """All stages so far, in order."""
        return tuple(row for row, _ in list(self._rows.values()))

    def check(self) -> None:
        """Raise Cancelled if the job is cancelled."""
        if self._cancelled():
            raise Cancelled

    def __call__(self, stage: str, done: int, total: int) -> None:
        """As `fast_sam3d.telemetry.Progress`."""
        self.check()
        if stage not in TITLES:
            return
        key, now = (self.part, stage), time.perf_counter()
        row, since = self._rows.get(key, (None, now))
        if row is None or done == 0:  # also a run that starts again
            row, since = StageRow(self.part, stage, TITLES[stage], total), now
        elif row.finished:
            return  # another observer has reported it
        evaluated = stage not in SAMPLERS or self._evaluated()
        steps = (*row.steps, *[evaluated] * (done - row.done))
        row = replace(row, total=total, steps=steps, seconds=now - since, finished=done >= total)
        self._rows[key] = row, since
        self._emit(row, *self._calls())

    def outside(self, stage: str, done: int, total: int) -> None:
        """Progress of one run; what the observer of the whole job receives as well is left out."""
        if stage in ("layout", "export", "results"):
            self(stage, done, total)

    def _evaluated(self) -> bool:
        """Whether the network ran in the last step."""
        if self.report is None or not self.report.solves or not self.report.solves[-1].steps:
            return True
        return self.report.solves[-1].steps[-1].evaluated

    def _calls(self) -> tuple[float, float]:
        return (0, 0) if self.report is None else (self.report.network_calls, self.report.network_calls_saved)
