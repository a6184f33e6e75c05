"""Several variants on one object, in turns, each watched."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from fast_sam3d.bench.variant import Variant
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.report import observe
from fast_sam3d.telemetry import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What goes in: image [H, W, 3] uint8, mask [H, W] bool, and perhaps a pointmap [H, W, 3] float32."""

    image: np.ndarray
    mask: np.ndarray
    pointmap: np.ndarray | None = None


@dataclass(frozen=True)
class Outcome:
    """One run of one variant.

    Args:
        variant: that ran.
        place: in the turns, from 0.
        result: of the pipeline's `run`, or what was kept of it; None where it failed.
        error: why it failed, in a sentence; empty where it did not.
        seconds: of the whole run, with the acceleration put on and taken off.
        report: of its stages.
        cpu_seconds: that this process spent on it, all threads: what a busy machine disturbs least.
        peak_bytes: memory at most beyond what was in use before; None where it was not measured.
    """

    variant: Variant
    place: int
    result: Any
    error: str
    seconds: float
    report: Report
    cpu_seconds: float = math.nan
    peak_bytes: int | None = None

    def columns(self, stages: Sequence[str]) -> dict[str, float]:
        """seconds, <stage>_seconds (NaN where a stage did not run) and network_calls."""
        return {
            "seconds": self.seconds,
            **{f"{stage}_seconds": self.report.seconds.get(stage, math.nan) for stage in stages},
            "network_calls": float(self.report.network_calls),  # averaged with the others
        }


def take_turns(
    pipeline: Any,
    given: Given,
    variants: Sequence[Variant],
    formats: Sequence[str],
    order: Sequence[int] | None = None,
    catch: tuple[type[Exception], ...] = (FastSam3dError,),
    memory: bool = False,
    name: object = "",
    keep: Callable[[Any], Any] = lambda result: result,
) -> list[Outcome]:
    """Run every variant once on the same input.

    Args:
        formats: to decode.
        order: the variants' numbers in the order in which they run; None: as they are.
        catch: what makes a run failed and not the whole.
        memory: measure the peak, too; what is freed goes back to the system before each run.
        name: of the object, for the log.
        keep: what to keep of a result until all have run, taken outside of the time; fails as the run would.

    Returns:
        the outcomes in the order of `variants`.
    """
    outcomes: dict[int, Outcome] = {}
    for place, number in enumerate(range(len(variants)) if order is None else order):
        variant, result, error = variants[number], None, ""
        peak: int | None = None
        with observe(pipeline) as report:
            began, cpu_began = time.perf_counter(), time.process_time()
            try:
                if memory:
                    result, seconds, cpu_seconds, peak = _measured(pipeline, given, variant, formats)
                else:
                    result = run(pipeline, given, variant, formats)
                    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
                result = keep(result)
            except catch as problem:
                result, seconds = None, time.perf_counter() - began
                cpu_seconds = time.process_time() - cpu_began
                said = " ".join(str(problem).split()) or "no reason given"
                error = f"{type(problem).__name__}: {said}"
                log.warning("object %s, %s: %s", name, variant.name, said)
        outcomes[number] = Outcome(variant, place, result, error, seconds, report, cpu_seconds, peak)
    return [outcomes[number] for number in range(len(variants))]


def run(pipeline: Any, given: Given, variant: Variant, formats: Sequence[str]) -> dict[str, Any]:
    """The pipeline's result, accelerated as the variant says, with the arguments of `fast-sam3d infer`."""
    import torch

    points = None
    if variant.given_depth and given.pointmap is not None:
        points = torch.from_numpy(given.pointmap)
    with ExitStack() as stack:
        if variant.config is not None:
            from fast_sam3d.api import accelerated

            stack.enter_context(accelerated(pipeline, variant.config))
        result: dict[str, Any] = pipeline.run(
            np.dstack([given.image, given.mask.astype(np.uint8) * 255]), None, seed=variant.seed,
            with_mesh_postprocess=False, with_texture_baking=False, use_vertex_color=True,
            stage1_inference_steps=variant.steps, stage2_inference_steps=variant.slat_steps or variant.steps,
            pointmap=points, decode_formats=list(formats),
        )  # fmt: skip
        return result


def _measured(
    pipeline: Any, given: Given, variant: Variant, formats: Sequence[str]
) -> tuple[dict[str, Any], float, float, int | None]:
    """The result, its seconds, those of the processor, and the peak of memory."""
    import torch

    from fast_sam3d.bench.exact_parts import measured

    results: list[tuple[dict[str, Any], float]] = []

    def whole(_: None) -> None:
        began = time.process_time()
        result = run(pipeline, given, variant, formats)
        results.append((result, time.process_time() - began))

    device = torch.device(getattr(pipeline, "device", "cpu"))
    seconds, peak = measured(whole, None, device)
    result, cpu_seconds = results[0]
    return result, seconds, cpu_seconds, peak
