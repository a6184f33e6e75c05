"""`fast-sam3d infer`: everything is checked, then the pipeline is loaded and run, then the results appear together."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fast_sam3d.cli.flags import add_config_flags, config_from
from fast_sam3d.config import Config, check_methods
from fast_sam3d.errors import InputError
from fast_sam3d.images import ObjectInput, load_object
from fast_sam3d.loading import Checkpoint, find_checkpoint
from fast_sam3d.result_folder import check_target, result_folder, results_complete

__all__ = ["OVERRIDES", "RESULT_NAMES", "add_arguments", "main", "run_object"]

log = logging.getLogger(__name__)

OVERRIDES = True
GAUSSIANS, GAUSSIANS_4, MESH = "gaussians.ply", "gaussians_4.ply", "mesh.glb"
POSE, PREVIEW, REPORT = "pose.json", "preview.png", "report.json"
RESULT_NAMES = (GAUSSIANS, GAUSSIANS_4, MESH, POSE, PREVIEW, REPORT)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one run gave: the pipeline's result, what was measured, and the acceleration's settings."""

    result: Mapping[str, Any]
    report: Any  # fast_sam3d.report.Report
    methods: Mapping[str, Any]
    load_seconds: float
    tag: str
    device: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)


def main(args: argparse.Namespace) -> int:
    config = config_from(args)
    if config.input.image_path is None:
        raise InputError("name the picture with --image_path: a folder with image.png and its masks, or a file")
    given = load_object(config.input.image_path, config.input.mask_index, config.input.mask_path, config.input.pointmap)
    target = config.output.dir / given.name
    check_target(target, RESULT_NAMES)
    checkpoint = find_checkpoint(config.pipeline.tag)
    check_methods(config)
    if checkpoint.kind == "mini":
        given = _reduced(given)
    run = run_object(config, given, checkpoint)
    with result_folder(target) as folder:
        written = write_results(folder, config, given, run)
    with results_complete(target):
        _print_summary(run, target, written)
    return 0


def _reduced(given: ObjectInput) -> ObjectInput:
    """The object at the size to which the embedded pipeline reduces it, so that the full one need not stay in memory.

    Left alone where the reduced mask would cover the whole picture, which is refused.
    """
    from fast_sam3d.mini.inputs import match_size, reduce_picture

    image, mask = reduce_picture(given.image, given.mask)
    if mask is given.mask or mask.all():
        return given
    points = None if given.pointmap is None else match_size(given.pointmap, *mask.shape).numpy()
    return replace(given, image=image, mask=mask, pointmap=points)


def run_object(config: Config, given: ObjectInput, checkpoint: Checkpoint) -> Run:
    """Loads the pipeline, accelerates it as configured, and runs it on one object."""
    import torch

    from fast_sam3d.api import accelerated
    from fast_sam3d.loading import load_checkpoint
    from fast_sam3d.progress import ProgressBars
    from fast_sam3d.report import observe

    log.info("pipeline: %s, because %s", checkpoint.tag, checkpoint.reason)
    begin = time.perf_counter()
    asked = config.pipeline
    pipeline = load_checkpoint(checkpoint, asked.device, asked.dtype, asked.depth_model)
    load_seconds = time.perf_counter() - begin
    log.info("loaded on %s in %.1f s", pipeline.device, load_seconds)
    # The mask as alpha in 0 or 255: a separate mask of booleans would become an alpha of 1 in 255 in the stock pipeline
    # (inference_pipeline.py, merge_image_and_mask).
    rgba = np.dstack([given.image, given.mask.astype(np.uint8) * 255])
    points = None if given.pointmap is None else torch.from_numpy(given.pointmap)
    with (
        accelerated(pipeline, config) as handle,
        ProgressBars() as progress,
        observe(pipeline, progress) as report,
    ):
        # The arguments of the stock notebook (notebook/inference.py, Inference.__call__).
        result = pipeline.run(
            rgba,
            None,
            seed=config.seed,
            stage1_only=False,
            with_mesh_postprocess=False,
            with_texture_baking=False,
            with_layout_postprocess=True,
            use_vertex_color=True,
            stage1_inference_steps=config.pipeline.ss_steps,
            stage2_inference_steps=config.pipeline.slat_steps,
            pointmap=points,
            decode_formats=list(config.pipeline.formats),
        )
    return Run(result, report, dict(handle.methods), load_seconds, checkpoint.tag, str(pipeline.device))


def write_results(folder: Path, config: Config, given: ObjectInput, run: Run) -> list[str]:
    """Writes every result that there is into `folder`. Returns the names of the files, in order of interest."""
    from fast_sam3d.export import mesh_summary, mesh_to_trimesh, save_gaussians_ply, save_glb, save_json, save_pose_json

    result = run.result
    written: list[str] = []
    facts: dict[str, Any] = {}
    if "gaussian" in config.pipeline.formats and (gaussians := _first(result.get("gaussian"))) is not None:
        save_gaussians_ply(folder / GAUSSIANS, gaussians)
        facts["gaussians"] = len(gaussians.get_xyz)
        written.append(GAUSSIANS)
    if "gaussian_4" in config.pipeline.formats and (gaussians := _first(result.get("gaussian_4"))) is not None:
        save_gaussians_ply(folder / GAUSSIANS_4, gaussians)
        facts["gaussians_4"] = len(gaussians.get_xyz)
        written.append(GAUSSIANS_4)
    if "mesh" in config.pipeline.formats and (mesh := _first(result.get("mesh"))) is not None:
        if len(mesh.faces):
            surface = mesh_to_trimesh(mesh)
            save_glb(folder / MESH, surface)
            facts["mesh"] = mesh_summary(surface)
            written.append(MESH)
        else:
            log.warning("the decoded mesh has no faces, so no %s is written: another --seed may help", MESH)
    save_pose_json(folder / POSE, result)
    written.append(POSE)
    if config.output.preview and (MESH in written or GAUSSIANS in written or GAUSSIANS_4 in written):
        from fast_sam3d.mini.inputs import reduce_picture
        from fast_sam3d.preview import save_preview

        # A few hundred pixels high: what is drawn from does not have to be larger than this.
        save_preview(folder / PREVIEW, *reduce_picture(given.image, given.mask), result)
        written.insert(0, PREVIEW)
    save_json(folder / REPORT, _report(config, given, run, facts))
    return [*written, REPORT]


def _report(config: Config, given: ObjectInput, run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    measured = run.report.to_dict()
    return {
        "input": {
            "image": str(given.image_path),
            "mask": str(given.mask_path),
            "pointmap": None if given.pointmap_path is None else str(given.pointmap_path),
            "size": given.size,
        },
        "pipeline": {"tag": run.tag, "device": run.device, "dtype": config.pipeline.dtype},
        "seed": config.seed,
        "steps": {"ss": config.pipeline.ss_steps, "slat": config.pipeline.slat_steps},
        "load_seconds": run.load_seconds,
        "result": facts,
        **measured,
        "methods": run.methods,
    }


def _print_summary(run: Run, target: Path, written: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fast_sam3d.progress import STAGES

    table = Table(title="accelerated: " + ", ".join(run.methods) if run.methods else "not accelerated")
    for i, heading in enumerate(run.report.HEADER):
        table.add_column(heading, justify="left" if i == 0 else "right")
    for row in run.report.rows():
        table.add_row(STAGES.get(row[0], row[0]), *row[1:])
    console = Console(highlight=False)
    console.print(table)
    peaks = (("host", run.report.peak_host_bytes), ("device", run.report.peak_device_bytes))
    memory = ", ".join(f"{place} {peak / 2**20:,.0f} MiB" for place, peak in peaks if peak)
    if memory:
        console.print(f"peak memory of the process: {memory}")
    for remark in run.report.remarks():
        console.print(remark)
    # Not wrapped or marked up: paths are for copying, and brackets in them are no markup.
    # Bytes that are no text in the terminal's encoding are escaped: results are there, and no place to fail.
    encoding = sys.stdout.encoding or "utf-8"
    text = f"results in {target}: {', '.join(written)}".encode(encoding, "backslashreplace").decode(encoding)
    print(text)


def _first(item: Any) -> Any:
    return (item[0] if item else None) if isinstance(item, (list, tuple)) else item
