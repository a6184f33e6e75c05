"""Quality of the embedded model on held-out objects, end to end through `run`, against ground truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_sam3d import metrics
from fast_sam3d.bench.collect import collect, run_done
from fast_sam3d.bench.held_out import FIRST_SEED, Subject
from fast_sam3d.bench.record import Record, code_digest, without_nan, write_rows, write_text
from fast_sam3d.bench.runs import run_variants
from fast_sam3d.bench.samplers import OWN, Sampler
from fast_sam3d.bench.variant import NOISE_SEED, STEPS, Variant, variant_of
from fast_sam3d.errors import ConfigError
from fast_sam3d.metrics import Protocol, Reconstruction
from fast_sam3d.mini.data.families import FAMILIES
from fast_sam3d.mini.data.samples import RESOLUTION
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.weights import weights_digest
from fast_sam3d.outputs.folder import writable_folder
from fast_sam3d.run.object import RunSettings

SURFACE_POINTS = 10_000
SETTINGS = RunSettings(formats=("mesh",), refine_pose=False)
"""The pose is the network's own, without the refinement that `infer` adds."""


@dataclass(frozen=True)
class EvaluationTask:
    """Settings of an evaluation, for its workers."""

    checkpoint: Path
    variants: tuple[Variant, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    sampler: Sampler = OWN


_pipeline: Any = None
_task: EvaluationTask


def _start(task: EvaluationTask, threads: int) -> None:
    global _pipeline, _task  # one pipeline per worker process
    torch.set_num_threads(threads)
    _pipeline, _task = Pipeline.from_pretrained(task.checkpoint), task
    for name, value in task.sampling.items():
        setattr(_pipeline, name, value)


def _work(seed: int) -> list[dict[str, Any]]:
    subject = Subject.of(seed)
    rows: list[dict[str, Any]] = []
    base: Mapping[str, Any] | None = None
    with _task.sampler.on(_pipeline):
        runs = run_variants(_pipeline, subject.given, _task.variants, SETTINGS, name=seed, done=run_done)
    for place, outcome in enumerate(runs):
        row = {"seed": seed, "family": subject.family, "variant": outcome.variant.name}
        row |= outcome.columns(("ss", "slat", "mesh"))
        row |= score(outcome.result, subject) if outcome.result is not None else NOTHING
        if place:
            row |= fidelity(outcome.result, base)
        else:
            base = outcome.result
        rows.append(row)
    return rows


NOTHING: Mapping[str, float] = {
    "voxel_iou": 0.0,
    "voxels": 0.0,
    "rotation_deg": 180.0,
    "box_iou": 0.0,
    "chamfer": metrics.WORST_CHAMFER,
    "chamfer_mean": metrics.WORST_CHAMFER / 2,
    "chamfer_squared": metrics.WORST_CHAMFER**2 / 2,
    "f1@0.05": 0.0,
    "f1@0.01": 0.0,
}
"""Scores of a failed run. Errors without a worst value are excluded from the means."""


JUDGED = Protocol(parts=("surface", "voxels", "pose", "layout"), points=SURFACE_POINTS)
CLOSE = Protocol(parts=("surface", "voxels", "pose"), points=SURFACE_POINTS)


def score(result: Mapping[str, Any], subject: Subject) -> dict[str, float]:
    """Scores against the ground truth. Lengths are in the unit cube of the ground truth's box unless named otherwise.

    `chamfer` is the sum of both directions, as everywhere else; `chamfer_mean` is their mean.
    """
    found = Reconstruction.of(result)
    voxels = result["coords"][:, 1:].numpy()
    compared = metrics.compare(found, subject.truth, JUDGED)
    scores = {
        "voxel_iou": compared["voxel_iou"],
        "voxels": len(voxels),
        **{name: compared[name] for name in ("rotation_deg", "translation_error", "scale_error", "box_iou")},
    }
    shell = _Points((voxels + 0.5) / RESOLUTION - 0.5), _Points((subject.shape.coords + 0.5) / RESOLUTION - 0.5)
    normal = metrics.unit_box(subject.mesh.vertices)
    a, b = (normal(points.vertices) for points in shell)
    scores |= {"ss_chamfer": metrics.chamfer(a, b), "ss_f1@0.05": metrics.f1(a, b, 0.05)}
    scores |= {name: compared[name] for name in ("chamfer", "chamfer_squared", "f1@0.05", "f1@0.01")}
    scores["chamfer_mean"] = compared["chamfer"] / 2
    if found.mesh is not metrics.NO_MESH:
        scores["colour_mae"] = _colours_at(result["mesh"][0], subject)
    return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True)
class _Points:
    vertices: np.ndarray


def _colours_at(mesh: Any, subject: Subject) -> float:
    """Mean absolute error of vertex colours against the albedo of the nearest true part."""
    step = max(len(mesh.vertices) // 2000, 1)
    points = mesh.vertices[::step].numpy()
    true = subject.photo.placed[0].sampled.solid.colour(points)
    return float(np.abs(mesh.vertex_attrs[::step, :3].numpy() - true).mean())


def fidelity(result: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> dict[str, float]:
    """Similarity of a result to the baseline; None is a failed run."""
    close = metrics.compare(Reconstruction.of(result), Reconstruction.of(base), CLOSE)
    return {f"base_{name}": close.get(name, float("nan")) for name in ("voxel_iou", "rotation_deg", "f1@0.01")}


def evaluate(
    task: EvaluationTask, seeds: Sequence[int], processes: int = 1, threads: int = 1, kept: Record | None = None
) -> list[dict[str, Any]]:
    """Run every variant on every held-out object.

    The first variant is the baseline of the others' fidelity.

    Args:
        kept: finished objects, which are not run again; new ones are added as they finish.

    Returns:
        One row per object and variant, in the order of the seeds.
    """
    rows = collect(seeds, _start, _work, task, processes, threads, kept, "evaluate", len(task.variants))
    return [row for found in rows.values() for row in found]


MEDIANS = {"rotation_deg", "base_rotation_deg"}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of every number; the median instead of the mean for long-tailed errors."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float)))
    summary = {}
    for name in names:
        centre = metrics.median_and_error if name in MEDIANS else metrics.mean_and_error
        middle, error = centre([row[name] for row in rows if name in row])
        if np.isfinite(middle):
            summary[name] = (middle, error)
    return summary


def by_family(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """`summarise` per family, in the order of `FAMILIES`."""
    grouped = {name: [row for row in rows if row["family"] == name] for name in FAMILIES}
    return {name: summarise(group) for name, group in grouped.items() if group}


COMPARED = ("seconds", "f1@0.01", "f1@0.05", "chamfer", "voxel_iou", "box_iou", "rotation_deg", "translation_error")
LINEAR, HOLD, FEW = "linear, stride 3", "hold, stride 3", "5 steps"
CLEAR = 2.0  # standard errors
CHECKS = {
    "few_steps_hurt": f"{FEW} are worse than 25 against the ground truth",
    "predictors_differ": "linear and held velocities differ in fidelity, linear minus hold",
}


def accelerated_variant(overrides: str) -> Variant:
    """The variant with the modules, steps and seed of overrides, separated by blanks.

    Raises:
        ConfigError: invalid overrides, or they change none of these.
    """
    variant = variant_of(overrides)
    if variant.config is None and (variant.steps, variant.slat_steps, variant.seed) == (STEPS, STEPS, NOISE_SEED):
        raise ConfigError(
            f"--accelerate {overrides!r} switches nothing on: give a preset or a module, preset=fast_sam3d, or for a"
            " control other steps, pipeline.ss_steps=10, or another seed"
        )
    return variant


def stiffness_variants() -> tuple[Variant, ...]:
    """Variants with fewer network calls, and another seed as the noise floor."""

    def cached(order: int) -> dict[str, Any]:
        predict = {"name": "taylor", "order": order} if order else {"name": "hold"}
        return {
            "ss": {
                "when": {"name": "stride", "stride": 3, "warmup": 2},
                "where": {"name": "all"},
                "predict": {"shape": predict, "layout": predict},
            }
        }

    return (
        Variant(FEW, steps=5),
        Variant("10 steps", steps=10),
        Variant(LINEAR, config=cached(1)),
        Variant(HOLD, config=cached(0)),
        Variant("other seed", seed=43),
        Variant("no pointmap", given_depth=False),
    )


def measure(
    checkpoint: Path,
    objects: int,
    processes: int,
    output: Path,
    others: Sequence[Variant] = (),
    sampling: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    sampler: Sampler = OWN,
) -> dict[str, Any]:
    """Evaluate a checkpoint and write `rows.csv` and `summary.json`.

    Finished objects are kept; a run with the same weights, code, variants and sampling resumes.

    Args:
        others: variants that are compared with the baseline.
        overwrite: discard finished objects.
        sampler: of the sparse structure, of every variant.

    Returns:
        the summary; unknown numbers are None.

    Raises:
        CheckpointError: the weights cannot be used. OutputError: the folder cannot be written.
    """
    writable_folder(output, "--output_dir")  # checked now rather than after the measurement
    Pipeline.from_pretrained(checkpoint)  # raises here for damaged weights, not in every worker
    task = EvaluationTask(checkpoint, (Variant("25 steps"), *others), sampling or {}, sampler)
    settings = {
        "checkpoint": weights_digest(task.checkpoint),
        "code": code_digest(),
        "variants": [asdict(variant) for variant in task.variants],
        "sampling": dict(task.sampling),
        "sampler": sampler.label,
    }
    seeds = range(FIRST_SEED, FIRST_SEED + objects)
    rows = evaluate(task, seeds, processes, kept=Record(output, settings, overwrite))
    write_rows(output / "rows.csv", rows)
    base = [row for row in rows if row["variant"] == task.variants[0].name]
    summary: dict[str, Any] = {
        "objects": objects,
        "sampler": sampler.label,
        "overall": summarise(base),
        "families": by_family(base),
        "variants": {},
    }
    for variant in task.variants[1:]:
        own = [row for row in rows if row["variant"] == variant.name]
        summary["variants"][variant.name] = {**summarise(own), "against_base": _paired(own, base)}
    if {FEW, LINEAR, HOLD} <= {variant.name for variant in others}:
        by_name = {variant.name: [row for row in rows if row["variant"] == variant.name] for variant in task.variants}
        summary["stiffness"] = stiffness_checks(by_name, task.variants[0].name)
    summary = without_nan(summary)
    write_text(output / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def stiffness_checks(rows: Mapping[str, Sequence[Mapping[str, Any]]], base: str) -> dict[str, Any]:
    """Whether methods can be distinguished on this model, by paired differences.

    Args:
        rows: by variant, the same objects in the same order.
        base: the baseline variant.

    Returns:
        "few_steps_hurt" and "predictors_differ": {"differences": {metric: (mean, standard error)}, "clear": bool};
        clear means more than two standard errors, and for few steps only if worse.
    """
    few = _paired(rows[FEW], rows[base], ("f1@0.01", "box_iou", "translation_error", "rotation_deg"))
    worse = {"f1@0.01": -1, "box_iou": -1, "translation_error": 1, "rotation_deg": 1}
    apart = _paired(rows[LINEAR], rows[HOLD], ("base_voxel_iou", "base_f1@0.01", "base_rotation_deg"))
    return {
        "few_steps_hurt": {
            "differences": few,
            "clear": any(worse[name] * mean > CLEAR * error for name, (mean, error) in few.items()),
        },
        "predictors_differ": {
            "differences": apart,
            "clear": any(abs(mean) > CLEAR * error for mean, error in apart.values()),
        },
    }


def _paired(
    rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], names: Sequence[str] = COMPARED
) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the paired difference to the base; for seconds the median ratio.

    Pairs with a value that is not finite are excluded.
    """
    pairs = list(zip(rows, base, strict=True))
    result = {}
    if "seconds" in names:
        result["speedup"] = metrics.paired_ratio(
            [row["seconds"] for row, _ in pairs], [other["seconds"] for _, other in pairs]
        )
    for name in (name for name in names if name != "seconds"):
        both = [(row[name], other[name]) for row, other in pairs if name in row and name in other]
        mean, error = metrics.paired_difference([first for first, _ in both], [second for _, second in both])
        if math.isfinite(mean):
            result[name] = (mean, error)
    return result
