"""`fast-sam3d infer`: reconstructs one masked object; its results appear together, when all are written."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint
from fast_sam3d.cli.flags import add_config_flags, config_from, log_acceleration
from fast_sam3d.cli.tables import print_path, print_table
from fast_sam3d.config.compose import Config, check_methods
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.load import ObjectInput, load_object
from fast_sam3d.outputs.folder import check_target, has_results, result_folder, results_complete
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.run.results import REPORT, RESULT_NAMES, write_results

__all__ = ["OVERRIDES", "add_arguments", "main"]

log = logging.getLogger(__name__)

OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results of other settings or inputs")


def main(args: argparse.Namespace) -> int:
    config = config_from(args)
    if config.input.image_path is None:
        raise InputError("name the picture with --image_path: a folder with image.png and its masks, or a file")
    given = load_object(config.input.image_path, config.input.mask_index, config.input.mask_path, config.input.pointmap)
    target = config.output.dir / given.name
    check_target(target, RESULT_NAMES)
    checkpoint = find_checkpoint(config.pipeline.tag)
    check_methods(config)
    log_acceleration(config)
    identity = _identity(config, given, checkpoint)
    if not args.overwrite and has_results(target, REPORT, identity):
        print_path(f"results in {target} are complete, from the same input and settings; --overwrite repeats the run")
        return 0
    if checkpoint.kind == "mini":
        given = _reduced(given)
    found, load_seconds = run(config, given, checkpoint)
    with result_folder(target) as folder:
        written = write_results(
            folder, config, given, found, tag=checkpoint.tag, load_seconds=load_seconds, identity=identity
        )
    with results_complete(target):
        _print_summary(found, target, written)
    return 0


def _identity(config: Config, given: ObjectInput, checkpoint: Checkpoint) -> dict[str, Any]:
    """Digests of the input, and the settings that make a difference to the results."""
    from fast_sam3d.scene.inputs import digest
    from fast_sam3d.scene.worker import config_identity

    settings = config_identity(config, checkpoint)
    for name in ("smaller", "batch"):  # of scenes alone
        del settings[name]
    points = None if given.pointmap is None else digest(given.pointmap)
    return {
        "input": {"image": digest(given.image), "mask": digest(given.mask), "pointmap": points},
        "settings": settings,
    }


def _reduced(given: ObjectInput) -> ObjectInput:
    """The object at the size to which the embedded pipeline reduces it, so that the full one leaves the memory.

    Unchanged where the reduced mask would cover the whole picture, which is refused.
    """
    from fast_sam3d.model.inputs import match_size, reduce_picture

    image, mask = reduce_picture(given.image, given.mask)
    if mask is given.mask or mask.all():
        return given
    points = None if given.pointmap is None else match_size(given.pointmap, *mask.shape).numpy()
    return replace(given, image=image, mask=mask, pointmap=points)


def run(config: Config, given: ObjectInput, checkpoint: Checkpoint) -> tuple[ObjectRun, float]:
    """Load the pipeline, accelerate it as configured, and run it on one object. Returns the seconds of loading too."""
    from fast_sam3d.api import accelerated
    from fast_sam3d.checkpoints.load import load_checkpoint
    from fast_sam3d.run.progress import ProgressBars

    begin = time.perf_counter()
    asked = config.pipeline
    pipeline = load_checkpoint(checkpoint, asked.device, asked.dtype, asked.depth_model)
    load_seconds = time.perf_counter() - begin
    log.info("loaded on %s in %.1f s", pipeline.device, load_seconds)
    settings = RunSettings.of(config.seed, asked)
    with accelerated(pipeline, config), ProgressBars() as progress:
        found = run_object(pipeline, given.image, given.mask, given.pointmap, settings=settings, progress=progress)
    return found, load_seconds


def _print_summary(run: ObjectRun, target: Path, written: list[str]) -> None:
    from fast_sam3d.run.progress import STAGES

    report = run.report
    title = f"accelerated: {', '.join(report.methods)}" if report.methods else "not accelerated"
    rows = [(STAGES.get(stage, stage), *cells) for stage, *cells in report.rows()]
    print_table(title, report.HEADER, rows, report.HEADER[1:])
    peaks = (("host", report.peak_host_bytes), ("device", report.peak_device_bytes))
    memory = ", ".join(f"{place} {peak / 2**20:,.0f} MiB" for place, peak in peaks if peak)
    if memory:
        print(f"peak memory of the process: {memory}")
    for remark in report.remarks():
        print(remark)
    print_path(f"results in {target}: {', '.join(written)}")
