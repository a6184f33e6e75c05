"""`fast-sam3d infer`: reconstructs one masked object; its results appear together, when all are written."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from fast_sam3d.cli.arguments import ANY
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.cli.flags import add_config_flags, add_overwrite
from fast_sam3d.cli.object_input import Request, prepare
from fast_sam3d.cli.tables import print_path, print_table
from fast_sam3d.outputs.folder import result_folder, results_complete
from fast_sam3d.run.memory import free_memory
from fast_sam3d.run.notices import checkpoint_notices, notices_of
from fast_sam3d.run.object import ObjectRun, RunSettings, run_object_fitting
from fast_sam3d.run.results import REPORT, RESULT_NAMES, write_results

log = logging.getLogger(__name__)

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    add_overwrite(parser)


def main(args: argparse.Namespace) -> int:
    request = prepare(config_from(args), args.overwrite, REPORT, RESULT_NAMES)
    if request is None:
        return 0
    found, written, tried, notices = run(request)
    with results_complete(request.target):
        _print_summary(found, request.target, written, tried, notices)
    return 0


def run(request: Request) -> tuple[ObjectRun, list[str], list[str], tuple[str, ...]]:
    """Load the pipeline, accelerate it as configured, run it on one object, and write the results.

    Returns:
        the run; the names of the written files; a line for every attempt that did not fit into the memory; the
        notices.
    """
    from fast_sam3d.api import accelerate, restore
    from fast_sam3d.checkpoints.load import load_checkpoint
    from fast_sam3d.run.progress import ProgressBars

    begin = time.perf_counter()
    config, given, asked = request.config, request.given, request.config.pipeline
    pipeline = load_checkpoint(request.checkpoint, *asked.loading)
    load_seconds = time.perf_counter() - begin
    log.info("loaded on %s in %.1f s", pipeline.device, load_seconds)
    tried: list[str] = []

    def write(found: ObjectRun) -> tuple[ObjectRun, list[str], tuple[str, ...]]:
        notices = notices_of(given, found, checkpoint_notices(request.checkpoint))
        with result_folder(request.target) as folder:
            written = write_results(
                folder, config, given, found, tag=request.checkpoint.tag, load_seconds=load_seconds,
                out_of_memory=tried, identity=request.identity, notices=notices,
            )  # fmt: skip
        return found, written, notices

    def free() -> None:
        accelerate(pipeline, config)  # a new installation has no caches
        free_memory()

    accelerate(pipeline, config)
    try:
        with ProgressBars() as progress:
            (found, written, notices), _ = run_object_fitting(
                pipeline, given.image, given.mask, given.pointmap, settings=RunSettings.of(config.seed, asked),
                progress=progress, smaller=config.scene.smaller, free=free, failures=tried, use=write,
            )  # fmt: skip
    finally:
        restore(pipeline)
    return found, written, tried, notices


def _print_summary(
    run: ObjectRun, target: Path, written: list[str], tried: list[str], notices: tuple[str, ...]
) -> None:
    from fast_sam3d.run.pose import refinement_text
    from fast_sam3d.run.progress import STAGES

    report = run.report
    title = f"accelerated: {', '.join(report.methods)}" if report.methods else "not accelerated"
    names = STAGES | {"results": "writing results"}
    rows = [(names.get(stage, stage), *cells) for stage, *cells in report.rows()]
    print_table(title, report.HEADER, rows, report.HEADER[1:])
    for line in report.footer():
        print(line)
    if (refinement := run.result.get("layout_refinement")) is not None:
        print(refinement_text(refinement))
    if tried:
        print(f"out of memory in {len(tried)} attempts: only {', '.join(run.formats)} fitted")
    for notice in notices:
        print(f"note: {notice}")
    print_path(f"results in {target}: {', '.join(written)}")
