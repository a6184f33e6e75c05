"""The report of accelerated or observed runs: seconds per stage, network calls per solve, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from fast_sam3d.telemetry.records import NOT_FINITE, AggregationRecord, Progress, SolveRecord, StepRecord

_ORDER = (
    "pointmap", "preprocess", "condition", "ss", "ss_decoder", "slat", "mesh", "gaussian", "postprocess", "layout",
    "other", "export", "results",
)  # fmt: skip


class Report:
    """Collects the records of every run since it was created or cleared.

    Args:
        methods: settings of the acceleration by stage; empty when nothing is accelerated.
        progress: called after every step and stage, for a progress bar. Not copied with the report.
        schedule: the file of a schedule measured on the model; None: the acceleration is of none.
    """

    HEADER = ("stage", "seconds", "share", "steps run", "network calls", "saved")

    def __init__(
        self, methods: Mapping[str, Any] | None = None, progress: Progress | None = None, schedule: str | None = None
    ) -> None:
        self.methods = dict(methods or {})
        self.progress = progress
        self.schedule = schedule
        self.clear()

    def clear(self) -> None:
        """Drop all records; a long batch does so after each object to keep the report small."""
        self.solves: list[SolveRecord] = []
        self.aggregations: list[AggregationRecord] = []
        self.redecoded: list[str] = []
        self.seconds: dict[str, float] = {}
        self.peak_host_bytes: int | None = None
        self.peak_device_bytes: int | None = None
        self.memory: Mapping[str, Any] | None = None
        self._running: list[str] = []
        self._since = 0.0

    @property
    def total_seconds(self) -> float:
        """Seconds in the pipeline and for result files; a stage's time excludes stages inside it, so rows add up."""
        return sum(self.seconds.values())

    @property
    def network_calls(self) -> float:
        """Network calls made by all solves; whole unless a batch was shared, see `SolveRecord`."""
        return _whole(sum(solve.calls / solve.shared_by for solve in self.solves))

    @property
    def network_calls_saved(self) -> float:
        """Network calls saved in all solves; whole unless a batch was shared."""
        return _whole(sum(solve.saved / solve.shared_by for solve in self.solves))

    def begin_solve(self, stage: str, times: Sequence[float]) -> SolveLog:
        """Open the record of a solve on the grid `times` [steps + 1]."""
        solve = SolveRecord(stage, len(times) - 1)
        self.solves.append(solve)
        self._notify(stage, 0, solve.steps_planned)
        return SolveLog(self, solve)

    def add_shared(self, stage: str, times: Sequence[float], batch: Report, objects: int) -> None:
        """Add one object's even share of a batch that was solved before its run.

        The seconds and network calls of the batch are divided evenly among its objects, so that the reports of the
        objects add up to that of the scene. The steps are those of the object.

        Args:
            stage: of the solve.
            times: its grid [steps + 1].
            batch: the report of the batch alone.
            objects: of the batch.
        """
        log = self.begin_solve(stage, times)
        log.record.shared_by = objects
        for record in batch.solves[0].steps:
            log.step(record)
        whole = batch.solves[0]
        log.finish(whole.context_bytes, syncs=whole.syncs, finite=whole.finite, layout_bytes=whole.layout_bytes)
        for name, seconds in batch.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds / objects

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of a stage; a nested stage pauses the outer clock."""
        self._charge()
        self._running.append(name)
        self.seconds.setdefault(name, 0.0)
        whole = name not in {"ss", "slat"}  # these two report each step
        if whole:
            self._notify(name, 0, 1)
        try:
            yield
        finally:
            self._charge()
            if self._running:
                self._running.pop()
            if not self._running:
                self.peak_host_bytes, self.peak_device_bytes = peak_host_bytes(), peak_device_bytes()
            if whole:
                self._notify(name, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Seconds are wall-clock; bytes are the process's peak so far, null where it cannot be read."""
        by_stage: dict[str, dict[str, float]] = {}
        for solve in self.solves:
            row = by_stage.setdefault(
                solve.stage,
                {"solves": 0, "steps": 0, "steps_evaluated": 0, "made": 0, "saved": 0, "fallbacks": 0},
            )
            row["solves"] += 1
            row["steps"] += solve.objects * len(solve.steps)
            row["steps_evaluated"] += solve.objects * len(solve.evaluated)
            row["made"] = _whole(row["made"] + solve.calls / solve.shared_by)
            row["saved"] = _whole(row["saved"] + solve.saved / solve.shared_by)
            row["fallbacks"] += solve.fallbacks
        return {
            "methods": self.methods,
            **({} if self.schedule is None else {"schedule": self.schedule}),
            "total_seconds": self.total_seconds,
            "seconds": {name: self.seconds[name] for name in self._stage_names()},
            "network_calls": by_stage,
            "peak_memory_bytes": {"host": self.peak_host_bytes, "device": self.peak_device_bytes},
            **({} if self.memory is None else {"memory": self.memory}),
            "aggregations": [asdict(record) for record in self.aggregations],
            "remarks": self.remarks(),
            "solves": [solve.to_dict() for solve in self.solves],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells: stage, seconds, share, steps run, network calls, calls saved; empty where none apply."""
        calls = self.to_dict()["network_calls"]
        total = self.total_seconds
        rows: list[tuple[str, ...]] = []
        for name in dict.fromkeys([*self._stage_names(), *calls]):
            cells, row = [""] * 5, calls.get(name)
            if (seconds := self.seconds.get(name)) is not None:
                cells[:2] = f"{seconds:.2f}", f"{100 * seconds / total:.0f} %" if total else ""
            if row is not None:
                cells[2:] = f"{row['steps_evaluated']}/{row['steps']}", str(row["made"]), str(row["saved"])
            rows.append((name, *cells))
        made, saved = self.network_calls, self.network_calls_saved
        rows.append(("total", f"{total:.2f}", "", "", str(made), str(saved)))
        return rows

    def table(self) -> str:
        """Plain text: one line per stage, the totals, peak memory."""
        rows = [self.HEADER, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.HEADER))]
        lines = []
        for name, *cells in rows:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join((name.ljust(widths[0]), *right)))
        lines.insert(1, "-" * len(lines[0]))
        lines.insert(-1, "-" * len(lines[0]))
        return "\n".join(line.rstrip() for line in [*lines, *self.footer()])

    def footer(self) -> list[str]:
        """Lines below the table: peak memory, and the remarks."""
        peaks = (("host", self.peak_host_bytes), ("device", self.peak_device_bytes))
        known = ", ".join(f"{place} {peak / 2**20:,.0f} MiB" for place, peak in peaks if peak)
        return [*([f"peak memory of the process: {known}"] if known else []), *self.remarks()]

    def remarks(self) -> list[str]:
        """What the table does not show: a measured schedule, memory, merged voxels, batches, predictions that were not
        finite."""
        lines = [] if self.schedule is None else [f"schedule measured on this model: {self.schedule}"]
        lines += [] if self.memory is None else [_memory_line(self.memory)]
        for record in self.aggregations:
            ratios = (("picture", record.picture), ("shape", record.shape))
            said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios if ratio is not None)
            lines.append(
                f"voxels merged by {record.factor:g}: {record.voxels:,} -> {record.kept:,}"
                f" (high-frequency ratio: {said or 'none'})"
            )
        layouts = sum(solve.objects * solve.layout_evaluations for solve in self.solves)
        if layouts:
            kept = max(solve.layout_bytes for solve in self.solves) / 2**20
            lines.append(
                f"the layout alone was evaluated at {layouts} more steps, with {kept:,.0f} MiB of the shape's keys and "
                "values"
            )
        batches = [solve.objects for solve in self.solves if solve.objects > 1]
        if batches:
            lines.append(f"{sum(batches)} objects were sampled in batches; network calls of a batch count once")
        shared = sorted({solve.shared_by for solve in self.solves if solve.shared_by > 1})
        lines += [f"seconds and calls include 1/{number} of a batch of {number} objects" for number in shared]
        fallbacks = sum(solve.fallbacks for solve in self.solves)
        if fallbacks:
            lines.append(f"{fallbacks} predictions were not finite, and the last velocity was held instead")
        for stage in dict.fromkeys(self.redecoded):
            lines.append(f"{stage}: the result was not finite in half precision, and was decoded again in float32")
        broken = dict.fromkeys(solve.stage for solve in self.solves if solve.finite is False)
        return lines + [f"{stage}: {NOT_FINITE}" for stage in broken]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "progress": None}

    def _stage_names(self) -> list[str]:
        known = [name for name in _ORDER if name in self.seconds]
        return known + [name for name in self.seconds if name not in _ORDER]

    def _charge(self) -> None:
        _synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] = self.seconds.get(self._running[-1], 0.0) + now - self._since
        self._since = now

    def _notify(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


class SolveLog:
    """Writes the steps of one solve to its record."""

    def __init__(self, report: Report, record: SolveRecord) -> None:
        self._report = report
        self.record = record

    def step(self, record: StepRecord) -> None:
        self.record.steps.append(record)
        self._report._notify(self.record.stage, len(self.record.steps), self.record.steps_planned)

    def finish(
        self,
        context_bytes: int = 0,
        replaced: Sequence[int] = (),
        syncs: int = 0,
        finite: bool | None = None,
        layout_bytes: int = 0,
    ) -> None:
        self.record.complete = True
        self.record.layout_bytes = layout_bytes
        self.record.finite = finite
        self.record.context_bytes = context_bytes
        self.record.syncs = syncs
        for step in replaced:
            self.record.steps[step] = replace(self.record.steps[step], fallback=True)


def peak_host_bytes() -> int | None:
    """Peak resident memory of this process so far, or None where the platform does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def peak_device_bytes() -> int | None:
    """Peak memory that torch allocated on the current CUDA device so far, or None without one in use."""
    import torch

    if not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _memory_line(memory: Mapping[str, Any]) -> str:
    """Plan and largest peak of what `fast_sam3d.native.residency.Residency.facts` returns."""
    plan, failed, stages = memory["plan"], memory["did_not_fit"], memory["stages"]
    said = f"native runtime, memory plan {plan}" + (f" ({', '.join(failed)} did not fit)" if failed else "")
    peaks = {name: stage["peak_bytes"] for name, stage in stages.items() if stage["peak_bytes"]}
    if not peaks:
        return said
    largest = max(peaks, key=lambda name: peaks[name])
    return f"{said}: peak {peaks[largest] / 2**20:,.0f} MiB ({memory['measured']}), in {largest}"


def _whole(number: float) -> float:
    """An int where the number is whole up to rounding, so that it prints as one."""
    return round(number) if abs(number - round(number)) < 1e-6 else round(number, 6)


def _synchronize() -> None:
    """Wait for the device, so that its pending work counts for the stage that started it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
