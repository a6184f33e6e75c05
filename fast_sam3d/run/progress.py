"""Progress on a terminal as bars, elsewhere as log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

__all__ = ["STAGES", "Bar", "ObjectsProgress", "ProgressBars", "SceneProgress", "track"]

log = logging.getLogger(__name__)

# What the stages of fast_sam3d.telemetry are called on the screen. "other" is the whole run and has no bar.
STAGES = {
    "pointmap": "pointmap",
    "preprocess": "preprocessing",
    "condition": "image tokens",
    "ss": "sparse structure",
    "ss_decoder": "occupancy",
    "slat": "structured latent",
    "mesh": "mesh",
    "gaussian": "gaussians",
    "postprocess": "postprocessing",
    "layout": "pose refinement",
    "export": "mesh export",
}
QUIET_SECONDS = 0.5  # a stage without steps that is quicker than this gets no log line
REDRAW_SECONDS = 0.1
LOG_SECONDS = 30.0

T = TypeVar("T")


class Bar(AbstractContextManager["Bar"]):
    """One progress bar on the error stream; a context manager. Without a terminal, a log line every half minute.

    Lines that other code writes in the meantime appear above it; see `fast_sam3d.run.terminal`.
    It has no thread, so the process can be forked while a bar is drawn.

    Args:
        title: text before the bar.
        total: units in all; None: unknown.
        done: units that are done already.
        keep: leave the complete bar on the screen.
        draw: draw a bar; None: only where the error stream is a terminal.
    """

    def __init__(
        self, title: str, total: float | None, done: float = 0, keep: bool = True, draw: bool | None = None
    ) -> None:
        self.title, self.total, self.done, self._first = title, total, done, done
        self._progress: Any = None
        self._shown = self._began = time.perf_counter()
        if not (sys.stderr.isatty() if draw is None else draw):
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from fast_sam3d.run.terminal import LinesAbove

        self._above = LinesAbove()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[note]}", markup=False),
            console=self._above.console, auto_refresh=False, transient=not keep,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=total, completed=done, note="")
        self._progress.start()

    def advance(self, count: float = 1, note: str | None = None) -> None:
        """Count some units as done."""
        self.update(self.done + count, note)

    def update(
        self, done: float, note: str | None = None, title: str | None = None, total: float | None = None
    ) -> None:
        """Set the units that are done, and the texts or the total where they are given."""
        self.done, self.title, self.total = done, title or self.title, total or self.total
        now = time.perf_counter()
        if self._progress is not None:
            fields = {} if note is None else {"note": note}
            self._progress.update(self._task, completed=done, description=self.title, total=self.total, **fields)
            if now - self._shown >= REDRAW_SECONDS:
                self._progress.refresh()
                self._shown = now
        elif now - self._shown >= LOG_SECONDS:
            log.info("%s: %g of %s, %.0f s%s%s", self.title, done, "?" if self.total is None else f"{self.total:g}",
                     self.seconds, self._left(), f", {note}" if note else "")  # fmt: skip
            self._shown = now

    def _left(self) -> str:
        """About how long the rest takes, where that is known."""
        if self.total is None or self.done <= self._first:
            return ""
        return f", about {self.seconds / (self.done - self._first) * (self.total - self.done):.0f} s left"

    def close(self) -> None:
        """Take the bar off, or leave it in its last state."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._above.close()

    @property
    def seconds(self) -> float:
        """Since it was created."""
        return time.perf_counter() - self._began

    def __exit__(self, *details: object) -> None:
        self.close()


def track(items: Sequence[T], title: str) -> Iterator[T]:
    """The items, with a bar over them."""
    with Bar(title, len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """A bar per stage, called with every step as `fast_sam3d.telemetry.Progress`; a context manager that closes them.

    Args:
        bars: draw bars; None: only where the error stream is a terminal. Elsewhere each stage has a log line.
    """

    def __init__(self, bars: bool | None = None) -> None:
        self._draw = sys.stderr.isatty() if bars is None else bars
        self._open: dict[str, Bar] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in STAGES:
            return
        if done == 0 and stage in self._open:  # of a run that failed
            self._open.pop(stage).close()
        if stage not in self._open:
            # The bars of stages without steps disappear; those with steps stay on the screen.
            title = f"{STAGES[stage]:<18}" if self._draw else STAGES[stage]
            self._open[stage] = Bar(title, total, keep=total > 1, draw=self._draw)
        self._open[stage].update(done)
        if done < total:
            return
        bar = self._open.pop(stage)
        bar.close()
        if not self._draw and total > 1:
            log.info("%s: %d steps, %.1f s", STAGES[stage], total, bar.seconds)
        elif not self._draw and bar.seconds >= QUIET_SECONDS:
            log.info("%s: %.1f s", STAGES[stage], bar.seconds)

    def __exit__(self, *details: object) -> None:
        while self._open:
            self._open.popitem()[1].close()


class ObjectsProgress(AbstractContextManager["ObjectsProgress"]):
    """One bar over objects, which are done in any order; elsewhere a log line per object. A context manager.

    Args:
        objects: in all.
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, objects: int, bar: bool | None = None) -> None:
        self._draw = sys.stderr.isatty() if bar is None else bar
        self._total, self._done, self._since = objects, 0, 0.0
        self._steps, self._steps_done = 1, 0  # of one object
        self._bar: Bar | None = None

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def left(self) -> int:
        """Objects that are not done."""
        return max(self._total - self._done, 0)

    def begin(self) -> None:
        """The workers start: time counts from here."""
        self._since = time.perf_counter()
        if self._draw:
            self._bar = Bar(self._title, self._total * self._steps, draw=True)

    def without(self, count: int) -> None:
        """Take off objects that are complete already or cannot be reconstructed."""
        self._total -= count
        self._show()

    def object_done(self, name: str, status: str) -> None:
        """One object, such as kitchen/3, is complete or has failed."""
        self._done, self._steps_done = self._done + 1, 0
        if self._bar is not None:
            self._show(name)
            return
        elapsed = time.perf_counter() - self._since
        left = elapsed / self._done * self.left
        log.info(
            "object %s %s: %d of %d, %.1f s elapsed, about %.0f s left",
            name, status, self._done, self._total, elapsed, left,
        )  # fmt: skip

    def _show(self, note: str | None = None) -> None:
        if self._bar is not None:
            done = self._done * self._steps + self._steps_done
            self._bar.update(done, note, self._title, self._total * self._steps)

    @property
    def _title(self) -> str:
        return "objects"


class SceneProgress(ObjectsProgress):
    """`ObjectsProgress` over objects in their order, whose steps advance the bar; called as `ProgressBars` is.

    Args:
        steps: of one object's two samplers.
        names: of the objects.
        bar: draw one; None: only where the error stream is a terminal.
    """

    def __init__(self, steps: int, names: list[str], bar: bool | None = None) -> None:
        super().__init__(len(names), bar)
        self._steps, self._names = max(steps, 1), names

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage in ("ss", "slat") and done:
            self._steps_done = min(self._steps_done + 1, self._steps)
        if stage in STAGES:
            self._show(STAGES[stage])

    @property
    def _title(self) -> str:
        number = min(self._done, len(self._names) - 1)
        return f"object {self._names[number]}, {number + 1} of {len(self._names)}"
