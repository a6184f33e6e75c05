"""How far schedules, and fewer steps of as many calls, are from the baseline on objects that calibration has not seen.

Each object has one baseline run. Then each way samples the structure from the picture on, and the structured latent on
the baseline's voxels, so that its error is its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.latent import LatentSampling, latents_kept
from fast_sam3d.api import accelerated
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.errors import FastSam3dError, one_line
from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.metrics import Reconstruction, by_group, compare, latent_error, mean_and_error
from fast_sam3d.metrics.comparison import Protocol
from fast_sam3d.metrics.pose import posed_diameter, translation_error
from fast_sam3d.report import observe
from fast_sam3d.run.object import RunSettings, run_object

log = logging.getLogger(__name__)

BASELINE, PATH, STEPS = "baseline", "path", "steps"
"""Kinds of ways."""
DRIFTS = ("voxel_iou", "rotation_deg", "translation_error", "scale_error", "latent_error")
COSTS = ("ss_calls", "slat_calls", "calls", "cpu_seconds", "seconds")
_VOXELS = 64
_COMPARED = Protocol(parts=("voxels", "pose"))


@dataclass(frozen=True)
class Way:
    """One way to sample.

    Args:
        kind: `PATH` or `STEPS`.
        level: the number of the budget, the same for a path and for the fewer steps beside it.
        config: for `accelerate`.
        steps: of both samplers; None: their own.
    """

    kind: str
    level: int
    config: Mapping[str, Any]
    steps: tuple[int | None, int | None]


def fewer_steps(pipeline: Any, stage: str, calls: int) -> int:
    """The most steps of a plain solve that take no more network calls; 1 if all take more."""
    adapter = adapt(pipeline)
    fitting = [n for n in range(1, calls + 1) if sum(adapter.network_calls(stage, n)) <= calls]
    return max(fitting, default=1)


def measure(
    pipeline: Any, thing: BenchObject, ways: Sequence[Way], settings: RunSettings, formats: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Run the baseline and every way on one object.

    Args:
        pipeline: not accelerated.
        settings: seed, and the steps of the baseline.
        formats: what the baseline decodes, the less the quicker.

    Returns:
        one row for the baseline, then one for each way: object, seed, kind, level, error (empty if none), `COSTS`, and
        `DRIFTS` from the baseline.
    """
    given = thing.given
    whole = replace(settings, formats=formats, refine_pose=False)
    began = time.perf_counter(), time.process_time()
    with latents_kept(pipeline) as latents:
        base = run_object(pipeline, given.image, given.mask, given.pointmap, settings=whole)
    latent = latents[0]
    ended = latent.ended
    rows: list[dict[str, Any]] = [
        {
            "object": thing.name, "seed": settings.seed, "kind": BASELINE, "level": -1, "error": "",
            **_calls(base.report), "seconds": ended[0] - began[0], "cpu_seconds": ended[1] - began[1],
        }
    ]  # fmt: skip
    for way in ways:
        row: dict[str, Any] = {
            "object": thing.name,
            "seed": settings.seed,
            "kind": way.kind,
            "level": way.level,
            "error": "",
        }
        try:
            row |= _measured(pipeline, thing, way, settings, base.result, latent)
        except FastSam3dError as error:
            log.warning("object %s: %s", thing.name, error)
            row |= {**dict.fromkeys((*COSTS, *DRIFTS), math.nan), "error": one_line(error)}
            row |= {"voxel_iou": 0.0, "rotation_deg": 180.0}
        rows.append(row)
    return rows


def _measured(
    pipeline: Any, thing: BenchObject, way: Way, settings: RunSettings, base: Mapping[str, Any], latent: LatentSampling
) -> dict[str, float]:
    given = thing.given
    short = replace(settings, ss_steps=way.steps[0], structure_only=True)
    with ExitStack() as stack:
        stack.enter_context(accelerated(pipeline, way.config))
        report = stack.enter_context(observe(pipeline))
        began = time.perf_counter(), time.process_time()
        found = run_object(pipeline, given.image, given.mask, given.pointmap, settings=short).result
        feats = latent.again(way.steps[1])
        spent = {"seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
    return {**_calls(report), **spent, **drift(found, base), "latent_error": latent_error(feats, latent.feats)}


def drift(found: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """Distance of a result's voxels and pose from the baseline's; translations in sizes of the object."""
    mine, theirs = Reconstruction.of({**found, "shape": None}), Reconstruction.of({**base, "shape": None})
    scores = compare(mine, theirs, _COMPARED)
    if mine.matrix is not None and theirs.matrix is not None:
        corners = as_numpy(base["coords"], np.float64)[:, -3:] / _VOXELS
        size = posed_diameter(np.concatenate([corners, corners + 1 / _VOXELS]), theirs.matrix)
        scores["translation_error"] = translation_error(mine.translation, theirs.translation, size)
    return {name: scores.get(name, math.nan) for name in DRIFTS if name != "latent_error"}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the objects, seeds of one object averaged first.

    Returns:
        one row for each kind and level: kind, level, objects, failed, and for each number (mean, standard error).
    """
    found = []
    for kind, level in dict.fromkeys((row["kind"], row["level"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["level"]) == (kind, level)]
        entry: dict[str, Any] = {"kind": kind, "level": level, "objects": len({row["object"] for row in own})}
        entry["failed"] = sum(bool(row["error"]) for row in own)
        for name in (*COSTS, *DRIFTS):
            values = [(row[name], row["object"]) for row in own if math.isfinite(row.get(name, math.nan))]
            if values:
                grouped = by_group([value for value, _ in values], [group for _, group in values])
                entry[name] = tuple(float(number) for number in mean_and_error(grouped))
        found.append(entry)
    return found


def _calls(report: Any) -> dict[str, float]:
    by_stage = report.to_dict()["network_calls"]
    found = {f"{stage}_calls": float(by_stage.get(stage, {}).get("made", 0)) for stage in ("ss", "slat")}
    return {**found, "calls": sum(found.values())}
