"""`fast-sam3d infer`: reconstructs one masked object; its results appear together, when all are written."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from fast_sam3d.checkpoints.load import Checkpoint, find_checkpoint
from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.flags import add_config_flags, config_from, log_acceleration
from fast_sam3d.cli.object_input import object_identity, read_object, reduced
from fast_sam3d.cli.tables import print_path, print_table
from fast_sam3d.config.compose import Config, check_methods
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.outputs.folder import check_target, has_results, result_folder, results_complete
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
from fast_sam3d.run.results import REPORT, RESULT_NAMES, write_results

__all__ = ["OVERRIDES", "add_arguments", "main"]

log = logging.getLogger(__name__)

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results of other settings or inputs")


def main(args: argparse.Namespace) -> int:
    config = config_from(args)
    given = read_object(config)
    target = config.output.dir / given.name
    check_target(target, RESULT_NAMES)
    checkpoint = find_checkpoint(config.pipeline.tag)
    check_methods(config)
    log_acceleration(config)
    identity = object_identity(config, given, checkpoint)
    if not args.overwrite and has_results(target, REPORT, identity):
        print_path(f"results in {target} are complete, from the same input and settings; --overwrite repeats the run")
        return 0
    if checkpoint.kind == "mini":
        given = reduced(given)
    found, load_seconds = run(config, given, checkpoint)
    with result_folder(target) as folder:
        written = write_results(
            folder, config, given, found, tag=checkpoint.tag, load_seconds=load_seconds, identity=identity
        )
    with results_complete(target):
        _print_summary(found, target, written)
    return 0


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
    for line in report.footer():
        print(line)
    print_path(f"results in {target}: {', '.join(written)}")
