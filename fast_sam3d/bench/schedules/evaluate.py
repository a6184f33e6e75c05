"""Evaluates the rows of a plan within a time, and keeps the results in a JSON file that a later run resumes."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_sam3d import metrics
from fast_sam3d.bench.gpu.machine import card
from fast_sam3d.bench.held_out import FIRST_SEED
from fast_sam3d.bench.record import without_nan, write_text
from fast_sam3d.bench.samplers import OWN, find_samplers
from fast_sam3d.bench.schedules.inputs import Inputs, load_inputs
from fast_sam3d.bench.schedules.rows import Row, plan
from fast_sam3d.bench.schedules.solves import LatentBed, Method, Scores, Solved, State, StructureBed
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.documents import read_json
from fast_sam3d.errors import OutputError, one_line
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.weights import weights_digest

__all__ = ["Settings", "evaluate"]

log = logging.getLogger(__name__)

MEDIAN = {"rotation_deg"}
"""Long-tailed: the median is given, and the mean as rotation_mean."""
ONE_BY_ONE_SHARE = 0.5
"""Of the time that is left, at most so much is spent on one row whose objects are solved one by one."""


@dataclass(frozen=True)
class Settings:
    """What to evaluate.

    Args:
        device: torch's name.
        objects: held-out objects from `FIRST_SEED` on.
        seeds: of the noise.
        samplers: of the sparse structure.
        minutes: for everything; rows that do not fit are left to the next run.
        one_by_one: objects of a row that cannot be solved as one batch; 0 leaves these rows out.
        batch: objects that are solved at once.
        calibrated: see `rows.plan`.
        cache: folder of the inputs.
        processes: that create the inputs.
    """

    device: str = "cpu"
    objects: int = 100
    seeds: tuple[int, ...] = (42, 43)
    samplers: tuple[str, ...] = ("published", "mild", "own")
    stages: tuple[str, ...] = ("ss", "slat")
    minutes: float = 60.0
    one_by_one: int = 16
    batch: int = 16
    calibrated: Path | None = None
    cache: Path | None = None
    processes: int = 1


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Evaluate what is missing in the file, and write the file after every few rows.

    Raises:
        OutputError: the file holds results of other objects, seeds or weights.
    """
    end = time.monotonic() + 60 * settings.minutes
    checkpoint = find_checkpoint("mini").folder
    kept = {
        "format": 1, "weights": weights_digest(checkpoint), "first_seed": FIRST_SEED, "objects": settings.objects,
        "seeds": list(settings.seeds),
    }  # fmt: skip
    results = _resumed(output, kept)
    done = {row["key"]: row for row in results["rows"]}
    rows = plan(settings.samplers, settings.calibrated, settings.stages)
    todo = [row for row in rows if not _same(done.get(row.key), row) and (row.together or settings.one_by_one)]
    log.info("%d rows, of which %d are evaluated already", len(rows), len(rows) - len(todo))
    if not todo:
        return results
    seeds = range(FIRST_SEED, FIRST_SEED + settings.objects)
    inputs = load_inputs(checkpoint, seeds, settings.cache, settings.processes)
    pipeline = Pipeline.from_pretrained(checkpoint, settings.device)
    torch.backends.cudnn.allow_tf32 = False  # voxels close to the threshold
    results |= {
        "machine": card(torch.device(settings.device)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    beds = _Beds(pipeline, inputs.to(pipeline.device), settings)
    saved = time.monotonic()
    for number, row in enumerate(todo):
        if (left := end - time.monotonic()) < 1:
            log.warning("the time is over: %d rows are left to the next run", len(todo) - number)
            break
        start = time.monotonic()
        try:
            found = beds.row(row, left)
        except Exception as error:  # of any kind: the other rows go on
            log.warning("%s: %s", row.key, one_line(error))
            continue
        done[row.key] = found
        main = found["scores"].get("voxel_iou") or found["scores"].get("latent_error")
        log.info("%d/%d %s: %g calls, %.4f ± %.4f, %.1f s", number + 1, len(todo), row.key, found["calls"], *main,
                 time.monotonic() - start)  # fmt: skip
        if time.monotonic() - saved > 5:
            _save(output, results, rows, done)
            saved = time.monotonic()
    _save(output, results, rows, done)
    return results


class _Beds:
    """The baselines, each solved when it is first needed."""

    def __init__(self, pipeline: Pipeline, inputs: Inputs, settings: Settings) -> None:
        self.pipeline, self.inputs, self.settings = pipeline, inputs, settings
        self._structures: dict[str, tuple[StructureBed, State]] = {}
        self._latents: tuple[LatentBed, Solved] | None = None

    def row(self, row: Row, left: float) -> dict[str, Any]:
        """Evaluate a row within the seconds that are left."""
        if row.stage == "ss":
            with find_samplers([row.sampler])[0].on(self.pipeline):
                bed, base = self._structure(row.sampler)
                solved, scores = self._solved(bed, row, left), {}
                scores = bed.state(solved).against(base)
        else:
            latents, baseline = self._latent()
            solved = self._solved(latents, row, left)
            scores = latents.against(solved, baseline)
        if any(not np.isfinite(values).all() for values in scores.values()):
            log.warning("%s: some results are not finite", row.key)
        count = len(next(iter(scores.values())))
        return {
            "key": row.key, "stage": row.stage, "sampler": row.sampler, "kind": row.kind, "name": row.name,
            "steps": row.method.steps, "settings": row.method.settings, "calls": solved.calls,
            "runs": count, "scores": summary(scores, len(self.inputs)),
        }  # fmt: skip

    def _solved(self, bed: Any, row: Row, left: float) -> Solved:
        if row.together:
            solved: Solved = bed.solve(row.method)
            return solved
        start = time.monotonic()
        bed.solve(row.method, 1, together=False)
        fitting = int(ONE_BY_ONE_SHARE * left / max(time.monotonic() - start, 1e-3))
        one: Solved = bed.solve(row.method, max(2, min(self.settings.one_by_one, fitting)), together=False)
        return one

    def _structure(self, sampler: str) -> tuple[StructureBed, State]:
        """Called with the sampler set."""
        if sampler not in self._structures:
            bed = StructureBed(self.pipeline, self.inputs, self.settings.seeds, self.settings.batch)
            self._structures[sampler] = bed, bed.state(bed.solve(Method()))
        return self._structures[sampler]

    def _latent(self) -> tuple[LatentBed, Solved]:
        """On the voxels of the baselines under the pipeline's own sampler, of the first noise seed."""
        if self._latents is None:
            with OWN.on(self.pipeline):
                _, state = self._structure(OWN.name)
            edge = self.pipeline.resolution
            occupied = state.occupied[: len(self.inputs)]
            voxels = [torch.argwhere(each.reshape(edge, edge, edge)) for each in occupied]
            seeds = [self.settings.seeds[0]] * len(voxels)
            bed = LatentBed(self.pipeline, self.inputs.slat, voxels, seeds, self.settings.batch)
            self._latents = bed, bed.solve(Method())
        return self._latents


def summary(scores: Scores, objects: int) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each score [B]; the noise seeds of an object are averaged first.

    Args:
        scores: the objects of the first noise seed first.
        objects: their number.
    """
    found = {}
    for name, values in scores.items():
        groups = [index % objects for index in range(len(values))]
        each = metrics.by_group(values, groups)
        found[name] = metrics.median_and_error(each) if name in MEDIAN else metrics.mean_and_error(each)
        if name in MEDIAN:
            found["rotation_mean"] = metrics.mean_and_error(each)
    return {name: (round(middle, 6), round(error, 6)) for name, (middle, error) in found.items()}


def _same(found: Mapping[str, Any] | None, row: Row) -> bool:
    settings = json.loads(json.dumps(row.method.settings))
    return found is not None and (found["settings"], found["steps"]) == (settings, row.method.steps)


def _resumed(output: Path, kept: Mapping[str, Any]) -> dict[str, Any]:
    if not output.exists():
        return {**kept, "rows": []}
    results: dict[str, Any] = read_json(output)
    other = next((name for name, value in kept.items() if results.get(name) != value), None)
    if other is not None:
        raise OutputError(f"{output} was measured with another {other}: remove it, or give another --output")
    return results


def _save(output: Path, results: dict[str, Any], rows: Sequence[Row], done: Mapping[str, Any]) -> None:
    order: Iterator[str] = iter([row.key for row in rows])
    results["rows"] = [done[key] for key in order if key in done]
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(without_nan({**results, "rows": []}), indent=1)
    body = ",\n  ".join(json.dumps(without_nan(row)) for row in results["rows"])
    write_text(output, lines.replace('"rows": []', f'"rows": [\n  {body}\n ]') + "\n")
