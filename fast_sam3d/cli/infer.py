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
from fast_sam3d.outputs.folder import results_complete
from fast_sam3d.run.results import REPORT, RESULT_NAMES
from fast_sam3d.run.to_folder import Written, run_to_folder

log = logging.getLogger(__name__)

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    add_overwrite(parser)


def main(args: argparse.Namespace) -> int:
    with prepare(config_from(args), args.overwrite, REPORT, RESULT_NAMES) as request:
        if request is not None:
            written = run(request)
            with results_complete(request.target):
                _print_summary(written, request.target)
    return 0


def run(request: Request) -> Written:
    """Load the pipeline, accelerate it as configured, run it on one object, and write the results."""
    from fast_sam3d.checkpoints.load import load_checkpoint
    from fast_sam3d.run.progress import ProgressBars

    begin = time.perf_counter()
    pipeline = load_checkpoint(request.checkpoint, *request.config.pipeline.loading)
    load_seconds = time.perf_counter() - begin
    log.info("loaded on %s in %.1f s", pipeline.device, load_seconds)
    with ProgressBars() as progress:
        return run_to_folder(
            pipeline, request.config, request.given, request.checkpoint, request.target, progress=progress,
            load_seconds=load_seconds, identity=request.identity,
        )  # fmt: skip


def _print_summary(written: Written, target: Path) -> None:
    from fast_sam3d.run.pose import refinement_text
    from fast_sam3d.run.progress import STAGES

    run, tried = written.run, written.out_of_memory
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
    for notice in written.notices:
        print(f"note: {notice}")
    print_path(f"results in {target}: {', '.join(written.files)}")
