"""Measures the cells of the plan, and saves after every round what was found."""

from __future__ import annotations

import gc
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.api import accelerated
from fast_sam3d.bench.exact_parts import measured, synchronise
from fast_sam3d.bench.gpu import machine
from fast_sam3d.bench.gpu.memory import follow
from fast_sam3d.bench.gpu.networks import FULL, OBJECT, STRUCTURE, Bed, Scale, build, half_type
from fast_sam3d.bench.gpu.plan import PLAN_SECONDS, Cell, Clock, OutOfTime, Pace, cells, limited, variants, voxels
from fast_sam3d.bench.gpu.stock import importable
from fast_sam3d.bench.variant import Variant
from fast_sam3d.errors import one_line
from fast_sam3d.native.plans import PLANS
from fast_sam3d.outputs.files import save_json
from fast_sam3d.outputs.interrupts import on_interrupt
from fast_sam3d.report import Report, observe
from fast_sam3d.run.memory import free_memory
from fast_sam3d.run.progress import Bar

logger = logging.getLogger(__name__)

NOISY: Final = (
    "fast_sam3d.exact", "fast_sam3d.sampling", "fast_sam3d.decode", "fast_sam3d.install", "fast_sam3d.native",
    "fast_sam3d.checkpoints",
)  # fmt: skip
"""Loggers whose lines go into the results, as every installation repeats them."""
TESTS_SECONDS: Final = 20.0
"""The tests are left out where less is left for them."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        rounds: measured runs of each variant, after a warm-up.
        minutes: for everything.
        tests: run the tests marked gpu at the end, where the device is a CUDA GPU.
    """

    scale: Scale
    device: torch.device
    minutes: float = 8.0
    rounds: int = 5
    seed: int = 0
    tests: bool = True


def measure(settings: Settings, path: Path, command: Sequence[str] = ()) -> dict[str, Any]:
    """Measure what fits into the time, the most important first.

    Args:
        path: of the JSON with the results, written after every round.
        command: that was given, for the results.

    Returns:
        the results.

    Raises:
        KeyboardInterrupt: names the file, which holds what was measured before.
    """
    run = Run(settings, path, command)
    try:
        with on_interrupt(f"what was measured is in {path}"):
            run.everything()
        run.results["ended"] = "complete"
    finally:
        run.save()
    return run.results


class Run:
    """One measurement; arguments as of `measure`."""

    def __init__(self, settings: Settings, path: Path, command: Sequence[str]) -> None:
        self.settings, self.path, self.clock = settings, path, Clock(60 * settings.minutes)
        self.scale, self.device = settings.scale, settings.device
        self.pace = Pace(dict.fromkeys((*STRUCTURE, *OBJECT), 1.0))
        found = machine.facts(settings.device)
        self.results: dict[str, Any] = {
            "format": 1, "command": list(command), "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": found,
            "note": machine.others(found), "minutes": settings.minutes, "rounds": settings.rounds,
            "seed": settings.seed, "small": settings.scale is not FULL, "steps": settings.scale.steps,
            "parameters": {}, "cells": [], "plans": [], "skipped": [], "tests": None, "ended": "interrupted",
        }  # fmt: skip

    def save(self) -> None:
        """Write what there is."""
        self.results["seconds"] = 60 * self.settings.minutes - self.clock.left()
        save_json(self.path, self.results)

    def everything(self) -> None:
        """The plan, cell by cell, then the memory plans and the tests."""
        if self.results["note"]:
            logger.warning(self.results["note"])
        todo = cells(self.scale, stock=importable())
        self.probe(todo[0].precision)
        self.announce(todo)
        for number, cell in enumerate(todo):
            label = cell.label(self.scale)
            with Bar(f"{number + 1}/{len(todo)} {label}", None) as bar:
                if reason := self.obstacle(cell) or self.cell(cell, bar):
                    self.results["skipped"].append({"cell": label, "reason": reason})
                    logger.info("skipped: %s: %s", label, reason)
            self.save()
        self.plans(todo[0].precision)
        self.save()
        if self.device.type == "cuda" and self.settings.tests and self.clock.left() > TESTS_SECONDS:
            logger.info("tests marked gpu, at most %.0f s", self.clock.left())
            self.results["tests"] = machine.run_tests(self.clock.left())

    def plans(self, precision: str) -> None:
        """Whole runs under each memory plan of the native runtime, while there is time."""
        half, took = half_type(precision, self.device, False), 0.0 if self.results["small"] else PLAN_SECONDS
        for plan in PLANS:
            start, label = time.perf_counter(), f"memory plan {plan}"
            try:
                if self.clock.left() < took:
                    raise OutOfTime(f"needs about {took:.0f} s, and {self.clock.left():.0f} s are left")
                logger.info("%s: %.0f s are left", label, self.clock.left())
                with recorded([]), limited(self.clock.left(), label):
                    found = follow(plan, self.scale, self.device, half, self.settings.seed)
                self.results["plans"].append(found)
                took = time.perf_counter() - start
            except Exception as error:  # of any kind: the other plans go on
                self.results["skipped"].append({"cell": label, "reason": one_line(error)})
                logger.info("skipped: %s: %s", label, one_line(error))
            free_memory()

    def probe(self, precision: str) -> None:
        """Time one step of every stage without acceleration, after another one as a warm-up."""
        try:
            for radius in (None, self.scale.radii[0]):
                start = time.perf_counter()
                bed = build(self.scale, radius, self.device, precision, self.settings.seed)
                synchronise(self.device)
                self.pace.build = time.perf_counter() - start  # the first one, which imports much, is replaced
                self.results["parameters"] |= bed.parameters
                adapter = adapt(bed.pipeline)
                for stage, call in bed.stages.items():
                    calls = 1.0
                    if stage in adapter.stages:
                        calls = network_calls(adapter, stage, self.scale.steps) / network_calls(adapter, stage, 1)
                    with limited(self.clock.left(), "one step"):
                        call()
                        self.pace.stages[stage] = calls * measured(partial(_append, [], call), None, self.device)[0]
        except Exception as error:  # of any kind: the cells say what is wrong
            logger.warning("the first pass failed, so the plan is a guess: %s", one_line(error))

    def announce(self, todo: Sequence[Cell]) -> None:
        """Log what fits."""
        left = self.clock.left()
        one = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self.pace.stages.items())
        logger.info("one object of %d voxels without acceleration: %s", voxels(self.scale.radii[0], self.scale), one)
        for cell in todo:
            rounds = self.pace.rounds(cell, self.scale, self.settings.rounds, left)
            seconds = self.pace.seconds(cell, self.scale, rounds) if rounds else 0.0
            left -= seconds
            does = (
                f"{rounds} round{'s' * (rounds != 1)}, about {seconds:.0f} s"
                if rounds
                else "does not fit into the time"
            )
            logger.info("  %-46s %s", cell.label(self.scale), does)

    def obstacle(self, cell: Cell) -> str | None:
        """Why a cell fits neither into the time nor into memory, or None."""
        if not self.pace.rounds(cell, self.scale, self.settings.rounds, self.clock.left()):
            needs = self.pace.seconds(cell, self.scale, 1)
            return f"needs about {needs:.0f} s, and {self.clock.left():.0f} s are left"
        free, (structure, objects) = machine.free_bytes(self.device), self.scale.gigabytes
        needs = structure if cell.radius is None else objects[self.scale.radii.index(cell.radius)]
        if free is not None and free < 1e9 * needs:
            return f"needs about {needs:g} GB of memory, and {free / 1e9:.1f} GB are free"
        return None

    def cell(self, cell: Cell, bar: Bar) -> str | None:
        """Measure one cell; why it could not be, or None."""
        record: dict[str, Any] = {
            "label": cell.label(self.scale), "precision": cell.precision, "stock": cell.stock,
            "compiled": cell.compiled, "voxels": None if cell.radius is None else voxels(cell.radius, self.scale),
            "half": str(half_type(cell.precision, self.device, cell.stock)).removeprefix("torch."),
        }  # fmt: skip
        problem = None
        try:
            before = machine.allocated(self.device)
            bed = build(self.scale, cell.radius, self.device, cell.precision, self.settings.seed, cell.stock)
            record |= {"tokens": bed.tokens, "parameters": dict(bed.parameters),
                       "weights_bytes": machine.allocated(self.device) - before}  # fmt: skip
            if cell.compiled:
                adapt(bed.pipeline).network("ss").compile(backend=self.scale.backend)
            self.rounds(cell, bed, record, bar)
        except Exception as error:  # of any kind: the other cells go on
            problem = one_line(error)
        bed = None  # type: ignore[assignment]
        if cell.compiled:
            torch._dynamo.reset()
        free_memory()
        return problem

    def rounds(self, cell: Cell, bed: Bed, record: dict[str, Any], bar: Bar) -> None:
        """Alternating runs of all variants, one round as a warm-up."""
        ways = variants(self.scale, cell.compiled)
        pairs: list[tuple[Variant, dict[str, Any]]] = [
            (way, {"name": way.name, "seconds": {}, "peak_bytes": {}, "calls": {}, "fallbacks": 0}) for way in ways
        ]
        record["variants"], record["log"] = [row for _, row in pairs], []
        rounds = self.pace.rounds(cell, self.scale, self.settings.rounds, self.clock.left())
        bar.total = (rounds + 1) * len(ways)
        gc.collect()
        gc.freeze()  # so that collecting before each run is quick
        try:
            with recorded(record["log"]):
                limit = min(self.clock.left(), self.scale.compile_seconds if cell.compiled else math.inf)
                with limited(limit, "the first round"):
                    took = self.round(cell, bed, pairs, bar, warm=True)
                self.results["cells"].append(record)
                for number in range(rounds):
                    if self.clock.left() > took:
                        took = self.round(cell, bed, pairs[:: -1 if number % 2 else 1], bar)
                        self.save()
        finally:
            gc.unfreeze()
        if cell.radius in (None, self.scale.radii[0]) and not (cell.stock or cell.compiled):
            for stage, seconds in record["variants"][0]["seconds"].items():  # plan the rest with these
                self.pace.stages[stage] = statistics.median(seconds)

    def round(
        self, cell: Cell, bed: Bed, pairs: Sequence[tuple[Variant, dict[str, Any]]], bar: Bar, warm: bool = False
    ) -> float:
        """All variants once, in this order, but those that have failed; the seconds it took."""
        start = time.perf_counter()
        for way, row in pairs:
            if "error" in row:
                continue
            try:
                self.one(cell, bed, way, row, warm)
            except Exception as error:  # of any kind: the other variants go on
                row["error"] = one_line(error)
                logger.warning("%s, %s: %s", cell.label(self.scale), way.name, row["error"])
            if "error" in row:
                free_memory()  # outside of the except block, because the error's frames hold the memory
            bar.advance()
        return time.perf_counter() - start

    def one(self, cell: Cell, bed: Bed, way: Variant, row: dict[str, Any], warm: bool) -> None:
        """One variant through all stages."""
        adapter = adapt(bed.pipeline)
        steps = {"ss": way.steps, "slat": way.slat_steps or way.steps}
        with accelerated(bed.pipeline, way.config) if way.config else observe(bed.pipeline) as handle:
            report = handle if isinstance(handle, Report) else handle.report
            for stage, call in bed.stages.items():
                if stage in steps:
                    set_steps(adapter, stage, steps[stage])
                report.clear()
                outcome = list[Any]()
                seconds, peak = measured(partial(_append, outcome, call), None, self.device)
                if warm:
                    row["finite"] = row.get("finite", True) and finite(outcome[0])
                    continue
                row["seconds"].setdefault(stage, []).append(seconds)
                row["peak_bytes"].setdefault(stage, []).append(peak)
                if stage in steps:
                    row["calls"][stage] = report.network_calls
                    row["fallbacks"] += report.solves[-1].fallbacks


def _append(outcome: list[Any], call: Callable[[], Any], _: None) -> None:
    outcome.append(call())


def network_calls(adapter: Any, stage: str, steps: int) -> int:
    """Of a sampler that takes this number of steps from now on."""
    set_steps(adapter, stage, steps)
    return sum(adapter.network_calls(stage))


def set_steps(adapter: Any, stage: str, steps: int) -> None:
    """Of a sampler."""
    adapter.generator(stage).inference_steps = steps


def finite(result: Any) -> bool:
    """Whether all numbers of a sampler's result are; True for other results."""
    leaves = result.values() if isinstance(result, dict) else [result]
    return all(bool(leaf.isfinite().all()) for leaf in leaves if isinstance(leaf, Tensor))


@contextmanager
def recorded(lines: list[str]) -> Iterator[None]:
    """Collect the log lines of accelerated runs with their level, each once, instead of showing them."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (text := f"{record.levelname.lower()}: {record.getMessage()}") not in lines:
                lines.append(text)

    handler, loggers = Collect(), [logging.getLogger(name) for name in NOISY]
    for each in loggers:
        each.addHandler(handler)
        each.propagate = False
    try:
        yield
    finally:
        for each in loggers:
            each.removeHandler(handler)
            each.propagate = True
