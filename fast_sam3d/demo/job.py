"""One job of the demo, as the page sees it: its state, its events, its results, and how to cancel it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_sam3d.demo.events import FINAL, Event, Kind, StageRow, Watch
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.settings import JobSettings
from fast_sam3d.errors import FastSam3dError

__all__ = ["Comparison", "Job", "JobFailed", "Results"]


class JobFailed(FastSam3dError):
    """A job that ended without results; the message says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An accelerated run against the baseline with the same noise, one run of each.

    Args:
        seconds: of "baseline" and "accelerated", without loading and without writing files.
        calls: of the networks, likewise.
        drift: measures of `fast_sam3d.metrics.compare`, such as voxel_iou, ssim and rotation_deg.
        view: files of the baseline to look at, as `Results.view`.
        folder: of the baseline's results.
    """

    seconds: Mapping[str, float]
    calls: Mapping[str, float]
    drift: Mapping[str, float]
    view: Mapping[str, Path]
    folder: Path

    @property
    def speedup(self) -> float:
        """How many times faster the accelerated run was."""
        return self.seconds["baseline"] / max(self.seconds["accelerated"], 1e-9)


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a job.

    Args:
        folder: of the whole job: input/NAME, result/ and, with a comparison, baseline/.
        files: to download, in order of interest.
        view: files to look at: "mesh" (.glb), "splats" (.ply), "preview" (.png), "turntable"; those that exist.
        report: report.json of an object, summary.json of a scene.
        pose: pose.json of an object, scene.json of a scene.
        seconds: of the run, without loading and without writing files; of a scene from its start to its end.
        calls, saved: network calls made and saved.
        command: the command line that repeats the result, run in the unpacked download.
        notices: what people should know of this result.
        comparison: with the baseline, if it was asked for.
    """

    folder: Path
    files: tuple[Path, ...]
    view: Mapping[str, Path]
    report: Mapping[str, Any]
    pose: Mapping[str, Any]
    seconds: float
    calls: float
    saved: float
    command: str
    notices: tuple[str, ...] = ()
    comparison: Comparison | None = None

    def archive(self) -> Path:
        """Everything as one .zip, which is written at the first call.

        Raises:
            OSError: it cannot be written.
        """
        import zipfile

        from fast_sam3d.outputs.files import atomic_write

        name = next((self.folder / "input").iterdir()).name
        path = self.folder / f"{name}.zip"
        if not path.exists():
            inside = {file.relative_to(self.folder): file for file in sorted(self.folder.rglob("*")) if file.is_file()}
            with (
                atomic_write(path) as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped,
            ):
                for place, each in inside.items():
                    if place.parts[0] in ("command.txt", "input", "result", "baseline"):
                        zipped.write(each, Path(name) / place)
        return path


@dataclass(slots=True, eq=False)
class Job:
    """A job in the engine's queue. All of it may be used from any thread.

    Args:
        given, settings: of the job.
        scene: all masks are reconstructed, and composed.
        id: short, unique, and good for a file name.
        view: files to look at so far, as `Results.view`.
        folder: of its files, once it has started.
    """

    given: JobInput | None
    settings: JobSettings
    scene: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    view: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    _events: list[Event] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.perf_counter)
    _results: Results | None = None
    _left: Callable[[Job], bool] = lambda job: False
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(
            lambda row, calls, saved: self._add("stage", row=row, calls=calls, saved=saved), self._cancelled.is_set
        )

    @property
    def fresh(self) -> bool:
        """It has no event yet."""
        return not self._events

    @property
    def last(self) -> Event:
        """The newest event."""
        return self._events[-1]

    @property
    def status(self) -> Kind:
        """ "waiting", "loading" (waiting for the model), "started", "done", "failed" or "cancelled"."""
        kind = self.last.kind
        return "started" if kind in ("stage", "object", "viewable") else kind

    @property
    def finished(self) -> bool:
        """It has ended, in whatever way."""
        return self.last.kind in FINAL

    @property
    def cancelled(self) -> bool:
        """`cancel` was called, perhaps too late."""
        return self._cancelled.is_set()

    @property
    def rows(self) -> tuple[StageRow, ...]:
        """The stages so far."""
        return self.watch.rows

    @property
    def seconds(self) -> float:
        """Since it was submitted; of a job that has ended, until its end."""
        return self.last.seconds if self.finished else time.perf_counter() - self._began

    @property
    def waited(self) -> float:
        """Seconds before it started; 0 if it has not."""
        return next((event.seconds for event in self._events if event.kind == "started"), 0.0)

    @property
    def results(self) -> Results | None:
        """None unless it is done."""
        return self._results

    def cancel(self) -> None:
        """End the job: at once while it waits, else at its next step. Its files are removed. Safe to repeat."""
        self._cancelled.set()
        if self._left(self):
            self.end("cancelled", "cancelled before it started")

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """All events from the first to the last, as they come.

        Args:
            timeout: at most this many seconds between two events; the iteration then ends early.
        """
        count, ended = 0, False
        while not ended:
            new = self._since(count, timeout)
            if not new:
                return
            count, ended = count + len(new), new[-1].kind in FINAL
            yield from new

    def _since(self, count: int, timeout: float | None) -> list[Event]:
        """The events after the first `count`, of which there is at least one unless time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > count, timeout)
            return self._events[count:]

    def look(self, seen: Mapping[str, Path], timeout: float) -> None:
        """Wait until it has ended, or has other files to look at than those seen; at most some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.finished or (self.view and self.view != seen), timeout)

    def wait(self, timeout: float | None = None) -> Results:
        """Wait for the end.

        Raises:
            JobFailed: it failed or was cancelled; the message is one sentence.
            TimeoutError: it has not ended in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished, timeout):
                raise TimeoutError(f"the job has not ended after {timeout:g} seconds")
        if self._results is None:
            raise JobFailed(self.last.message)
        return self._results

    def _add(self, kind: Kind, message: str = "", **about: Any) -> None:
        with self._changed:
            if self._events and self.finished:
                return
            before = self._events[-1] if self._events else None
            kept = {} if before is None else {"calls": before.calls, "saved": before.saved}
            self._events.append(Event(kind, time.perf_counter() - self._began, message, **{**kept, **about}))
            self._changed.notify_all()

    # What follows is for the engine.

    def say(self, kind: Kind, message: str = "", place: int = 0) -> None:
        """Add an event."""
        self._add(kind, message, place=place)

    def show(self, view: Mapping[str, Path]) -> None:
        """There are files to look at."""
        self.view = view
        self._add("viewable")

    def end(self, kind: Kind, message: str = "", results: Results | None = None) -> None:
        """The last event."""
        with self._changed:
            if self.finished:
                return
            self._results = results
            if results is not None:
                self.view = results.view
            self.given = None  # the pictures leave the memory
            self._add(kind, message)
