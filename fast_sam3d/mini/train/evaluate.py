"""Quality of the embedded model on objects that it never saw: end to end, through `run`, against the true shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_sam3d import metrics
from fast_sam3d.bench.collect import collect
from fast_sam3d.bench.held_out import Subject
from fast_sam3d.bench.record import Record
from fast_sam3d.bench.turns import take_turns
from fast_sam3d.bench.variant import Variant
from fast_sam3d.metrics import Protocol, Reconstruction
from fast_sam3d.mini.data.families import FAMILIES
from fast_sam3d.mini.data.samples import RESOLUTION
from fast_sam3d.run.object import RunSettings

SURFACE_POINTS = 10_000
SETTINGS = RunSettings(formats=("mesh",), refine_pose=False)
"""The pose is the network's own, without the refinement that `infer` adds."""


@dataclass(frozen=True)
class Job:
    """What one worker needs to know."""

    checkpoint: Path
    variants: tuple[Variant, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)


_pipeline: Any = None
_job: Job


def _start(job: Job, threads: int) -> None:
    global _pipeline, _job  # one pipeline per worker process
    from fast_sam3d.model.pipeline import MiniPipeline

    torch.set_num_threads(threads)
    _pipeline, _job = MiniPipeline.from_pretrained(job.checkpoint), job
    for name, value in job.sampling.items():
        setattr(_pipeline, name, value)


def _work(seed: int) -> list[dict[str, Any]]:
    subject = Subject.of(seed)
    rows: list[dict[str, Any]] = []
    base: Mapping[str, Any] | None = None
    for place, outcome in enumerate(take_turns(_pipeline, subject.given, _job.variants, SETTINGS, name=seed)):
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
"""Scores of no result at all. Errors without a worst value are left out of the means."""


JUDGED = Protocol(parts=("surface", "voxels", "pose", "layout"), points=SURFACE_POINTS)
CLOSE = Protocol(parts=("surface", "voxels", "pose"), points=SURFACE_POINTS)


def score(result: Mapping[str, Any], subject: Subject) -> dict[str, float]:
    """Everything that is judged against the truth. Lengths in the unit cube of the truth's box unless named.

    `chamfer` adds the two directions up, as everywhere else; `chamfer_mean` is their mean.
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
    """Mean absolute error of vertex colours against the albedo at the nearest true part."""
    step = max(len(mesh.vertices) // 2000, 1)
    points = mesh.vertices[::step].numpy()
    true = subject.photo.placed[0].sampled.solid.colour(points)
    return float(np.abs(mesh.vertex_attrs[::step, :3].numpy() - true).mean())


def fidelity(result: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> dict[str, float]:
    """Closeness of a result to the unaccelerated one; None stands for a run that made nothing."""
    close = metrics.compare(Reconstruction.of(result), Reconstruction.of(base), CLOSE)
    return {f"base_{name}": close.get(name, float("nan")) for name in ("voxel_iou", "rotation_deg", "f1@0.01")}


def evaluate(
    job: Job, seeds: Sequence[int], processes: int = 1, threads: int = 1, kept: Record | None = None
) -> list[dict[str, Any]]:
    """Run every variant on every held-out object.

    The first variant is the base that the others' fidelity is measured against.

    Args:
        kept: what an earlier start has finished, which is not run again; every object is added when it is done.

    Returns:
        One row per object and variant, in the order of the seeds.
    """
    rows = collect(seeds, _start, _work, job, processes, threads, kept, "evaluate")
    return [row for found in rows.values() for row in found]


MEDIANS = {"rotation_deg", "base_rotation_deg"}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of every number; the median instead of the mean where errors have a long tail."""
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
