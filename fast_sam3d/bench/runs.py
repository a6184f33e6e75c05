"""Runs several variants on one object, each observed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fast_sam3d.api import accelerated
from fast_sam3d.bench.variant import Variant
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.telemetry import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What goes in: image [H, W, 3] uint8, mask [H, W] bool, and perhaps a pointmap [H, W, 3] float32."""

    image: np.ndarray
    mask: np.ndarray
    pointmap: np.ndarray | None = None


@dataclass(frozen=True)
class VariantRun:
    """One run of one variant.

    Args:
        variant: the variant.
        place: its position in the order of the runs, from 0.
        result: of the pipeline's `run`, or what was kept of it; None after a failure.
        error: why it failed, in a sentence; empty otherwise.
        seconds: wall-clock time of the run, installing and removing the acceleration included.
        report: of its stages; empty after a failure.
        cpu_seconds: processor time of this process, all threads; least disturbed by a busy machine.
        peak_bytes: peak memory above what was in use before; None if not measured.
        pose_refined: the layout stage ran.
    """

    variant: Variant
    place: int
    result: Any
    error: str
    seconds: float
    report: Report
    cpu_seconds: float = math.nan
    peak_bytes: int | None = None
    pose_refined: bool = False

    def columns(self, stages: Sequence[str]) -> dict[str, float]:
        """seconds, <stage>_seconds (NaN where a stage did not run) and network_calls."""
        return {
            "seconds": self.seconds,
            **{f"{stage}_seconds": self.report.seconds.get(stage, math.nan) for stage in stages},
            "network_calls": float(self.report.network_calls),  # averaged with the others
        }


def run_variants(
    pipeline: Any,
    given: Given,
    variants: Sequence[Variant],
    settings: RunSettings,
    order: Sequence[int] | None = None,
    catch: tuple[type[Exception], ...] = (FastSam3dError,),
    memory: bool = False,
    name: object = "",
    keep: Callable[[Any], Any] = lambda result: result,
    done: Callable[[], None] = lambda: None,
) -> list[VariantRun]:
    """Run every variant once on the same input.

    Args:
        settings: formats and pose refinement; seed and steps are the variants'.
        order: the variants' numbers in the order in which they run; None: in the given order.
        catch: errors that make one run fail instead of raising.
        memory: measure the peak too; freed memory is returned to the system before each run.
        name: of the object, for the log.
        keep: what to keep of a result until all have run, called outside of the measured time; may fail like a run.
        done: called after each run.

    Returns:
        the runs in the order of `variants`.
    """
    runs: dict[int, VariantRun] = {}
    for place, number in enumerate(range(len(variants)) if order is None else order):
        variant, result, error, report, refined = variants[number], None, "", Report(), False
        peak: int | None = None
        began, cpu_began = time.perf_counter(), time.process_time()
        try:
            if memory:
                whole, seconds, cpu_seconds, peak = _measured(pipeline, given, variant, settings)
            else:
                whole = run(pipeline, given, variant, settings)
                seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            result, report, refined = keep(whole.result), whole.report, whole.pose_refined
        except catch as problem:
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            said = " ".join(str(problem).split()) or "no reason given"
            error = f"{type(problem).__name__}: {said}"
            log.warning("object %s, %s: %s", name, variant.name, said)
        runs[number] = VariantRun(variant, place, result, error, seconds, report, cpu_seconds, peak, refined)
        done()
    return [runs[number] for number in range(len(variants))]


def run(pipeline: Any, given: Given, variant: Variant, settings: RunSettings) -> ObjectRun:
    """Run the pipeline as `fast-sam3d infer` does, accelerated as the variant says."""
    steps = variant.slat_steps or variant.steps
    settings = replace(settings, seed=variant.seed, ss_steps=variant.steps, slat_steps=steps)
    points = given.pointmap if variant.given_depth else None
    with ExitStack() as stack:
        if variant.config is not None:
            stack.enter_context(accelerated(pipeline, variant.config))
        return run_object(pipeline, given.image, given.mask, points, settings=settings)


def _measured(
    pipeline: Any, given: Given, variant: Variant, settings: RunSettings
) -> tuple[ObjectRun, float, float, int | None]:
    """The run, its seconds, those of the processor, and the peak of memory."""
    import torch

    from fast_sam3d.bench.exact_parts import measured

    runs: list[tuple[ObjectRun, float]] = []

    def whole(_: None) -> None:
        began = time.process_time()
        done = run(pipeline, given, variant, settings)
        runs.append((done, time.process_time() - began))

    device = torch.device(getattr(pipeline, "device", "cpu"))
    seconds, peak = measured(whole, None, device)
    done, cpu_seconds = runs[0]
    return done, seconds, cpu_seconds, peak
