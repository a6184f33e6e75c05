"""Quality of the embedded model on objects that it never saw: end to end, through `run`, against the true shapes."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fast_sam3d import metrics
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.export import pose_matrix, quaternion_matrix
from fast_sam3d.mini.data.families import FAMILIES, Sampled
from fast_sam3d.mini.data.pictures import Photo, photograph
from fast_sam3d.mini.data.samples import FINE, RESOLUTION, Shape, grid_centres
from fast_sam3d.mini.train.record import Record
from fast_sam3d.mini.workers import worker_pool
from fast_sam3d.report import observe

log = logging.getLogger(__name__)

SURFACE_POINTS = 10_000
NOISE_SEED = 42


@dataclass(frozen=True)
class Mesh:
    """vertices [V, 3] in the canonical cube, faces [F, 3]."""

    vertices: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Subject:
    """A held-out object: its picture and what is true of it."""

    seed: int
    photo: Photo
    shape: Shape
    mesh: Mesh

    @classmethod
    def of(cls, seed: int) -> Subject:
        photo, shape = photograph(seed)
        return cls(seed, photo, shape, true_mesh(photo.placed[0].sampled))


def true_mesh(sampled: Sampled) -> Mesh:
    """Marching cubes of the true distance on a 128^3 grid; far from the surface a coarse grid gives the sign."""
    from skimage import measure

    coarse = sampled.solid.distance(grid_centres(RESOLUTION)).reshape((RESOLUTION,) * 3)
    fine = coarse.repeat(FINE, 0).repeat(FINE, 1).repeat(FINE, 2)
    near = np.abs(fine) < 2 / RESOLUTION
    fine[near] = sampled.solid.distance(grid_centres(RESOLUTION * FINE)[near.ravel()])
    vertices, faces, _, _ = measure.marching_cubes(np.pad(fine, 1, constant_values=1.0), 0.0)
    return Mesh((vertices - 0.5) / (RESOLUTION * FINE) - 0.5, faces)


@dataclass(frozen=True)
class Variant:
    """One way to run the pipeline: steps of both stages, noise seed, and an acceleration config or None.

    `slat_steps` None are as many as `steps`. `given_depth` hands over the picture's true pointmap; without it the
    pipeline guesses one.
    """

    name: str
    steps: int = 25
    slat_steps: int | None = None
    seed: int = NOISE_SEED
    config: Mapping[str, Any] | None = None
    given_depth: bool = True


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
    from fast_sam3d.mini.pipeline import MiniPipeline

    torch.set_num_threads(threads)
    _pipeline, _job = MiniPipeline.from_pretrained(job.checkpoint), job
    for name, value in job.sampling.items():
        setattr(_pipeline, name, value)


def _work(seed: int) -> list[dict[str, Any]]:
    subject = Subject.of(seed)
    rows, base = [], None
    for place, variant in enumerate(_job.variants):
        row = {"seed": seed, "family": subject.photo.placed[0].sampled.family, "variant": variant.name}
        with observe(_pipeline) as report:
            began = time.perf_counter()
            try:
                result = run(_pipeline, subject, variant)
            except FastSam3dError as error:  # the model made nothing of the picture
                log.warning("object %d, %s: %s", seed, variant.name, error)
                result = None
            row["seconds"] = time.perf_counter() - began
        row |= {f"{stage}_seconds": report.seconds.get(stage, math.nan) for stage in ("ss", "slat", "mesh")}
        row["network_calls"] = float(report.network_calls)  # averaged with the others
        row |= score(result, subject) if result is not None else NOTHING
        if place:
            row |= fidelity(result, base)
        else:
            base = result
        rows.append(row)
    return rows


def run(pipeline: Any, subject: Subject, variant: Variant) -> dict[str, Any]:
    """The pipeline's result for a subject's picture."""
    points = torch.from_numpy(subject.photo.points) if variant.given_depth else None
    with contextlib.ExitStack() as stack:
        if variant.config is not None:
            from fast_sam3d.api import accelerated

            stack.enter_context(accelerated(pipeline, variant.config))
        return pipeline.run(
            subject.photo.rgb, subject.photo.mask().astype(np.uint8) * 255, seed=variant.seed, pointmap=points,
            stage1_inference_steps=variant.steps, stage2_inference_steps=variant.slat_steps or variant.steps,
            decode_formats=["mesh"],
        )  # fmt: skip


NOTHING: Mapping[str, float] = {
    "voxel_iou": 0.0,
    "voxels": 0.0,
    "rotation_deg": 180.0,
    "box_iou": 0.0,
    "chamfer": metrics.WORST_CHAMFER,
    "chamfer_squared": metrics.WORST_CHAMFER**2 / 2,
    "f1@0.05": 0.0,
    "f1@0.01": 0.0,
}
"""Scores of no result at all. Errors without a worst value are left out of the means."""


def score(result: Mapping[str, Any], subject: Subject) -> dict[str, float]:
    """Everything that is judged against the truth. Lengths in the unit cube of the truth's box unless named."""
    placed = subject.photo.placed[0]
    camera = placed.camera
    truth = {
        "rotation": None,
        "matrix": np.block([[camera.R.T * camera.size, camera.t[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]),
    }
    mesh = result["mesh"][0]
    voxels = result["coords"][:, 1:].numpy()
    rotation = quaternion_matrix(result["rotation"][0])
    extent = np.ptp(subject.mesh.vertices, axis=0) * camera.size
    scores = {
        "voxel_iou": metrics.voxel_iou(voxels, subject.shape.coords),
        "voxels": len(voxels),
        "rotation_deg": metrics.rotation_error_deg(rotation, camera.R, placed.sampled.symmetry),
        "translation_error": metrics.translation_error(result["translation"], camera.t, float(np.linalg.norm(extent))),
        "scale_error": metrics.scale_error(result["scale"], np.full(3, camera.size)),
        "box_iou": 0.0,
    }
    shell = _Points((voxels + 0.5) / RESOLUTION - 0.5), _Points((subject.shape.coords + 0.5) / RESOLUTION - 0.5)
    normal = metrics.unit_box(subject.mesh.vertices)
    a, b = (normal(points.vertices) for points in shell)
    scores |= {"ss_chamfer": metrics.chamfer(a, b), "ss_f1@0.05": metrics.f1(a, b, 0.05)}
    scores |= metrics.compare_meshes(mesh if mesh.success else None, subject.mesh, SURFACE_POINTS)
    if mesh.success:
        scores["box_iou"] = metrics.layout_box_iou(
            mesh.vertices, pose_matrix(result), subject.mesh.vertices, truth["matrix"]
        )
        shade = _colours_at(mesh, subject)
        scores["colour_mae"] = shade
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
    if base is None:
        return dict.fromkeys(("base_voxel_iou", "base_rotation_deg", "base_f1@0.01"), float("nan"))
    if result is None:
        return {"base_voxel_iou": 0.0, "base_rotation_deg": 180.0, "base_f1@0.01": 0.0}
    rotations = [quaternion_matrix(r["rotation"][0]) for r in (result, base)]
    mesh, other = result["mesh"][0], base["mesh"][0]
    close = metrics.compare_meshes(mesh if mesh.success else None, other, SURFACE_POINTS) if other.success else {}
    return {
        "base_voxel_iou": metrics.voxel_iou(result["coords"], base["coords"]),
        "base_rotation_deg": metrics.rotation_error_deg(*rotations),
        "base_f1@0.01": close.get("f1@0.01", float("nan")),
    }


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
    done = {} if kept is None else {seed: kept.rows[seed] for seed in seeds if seed in kept.rows}
    if done:
        log.info("%d of %d objects were measured before: %s", len(done), len(seeds), kept.path if kept else "")
    left = [seed for seed in seeds if seed not in done]
    with tqdm(total=len(seeds), initial=len(done), unit="object", desc="evaluate") as bar:
        for seed, rows in _results(job, left, processes, threads):
            if kept is not None:
                kept.add(seed, rows)
            done[seed] = rows
            bar.update()
    return [row for seed in seeds for row in done[seed]]


def _results(
    job: Job, seeds: Sequence[int], processes: int, threads: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Seeds with their rows, as they are done."""
    if not seeds:
        return
    if processes == 1:
        before = torch.get_num_threads()
        _start(job, threads)
        try:
            yield from ((seed, _work(seed)) for seed in seeds)
        finally:
            torch.set_num_threads(before)
        return
    with worker_pool(processes, _start, (job, threads)) as pool:
        jobs = {pool.submit(_work, seed): seed for seed in seeds}
        for done in as_completed(jobs):
            yield jobs[done], done.result()


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
