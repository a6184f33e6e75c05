"""`fast-sam3d tune`: measures on your own pipeline at which steps the networks have to run."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fast_sam3d.cli.arguments import at_least
from fast_sam3d.cli.configuration import pipeline_from
from fast_sam3d.cli.flags import FOLDER_HELP, add_image_path, add_model_flags, add_overwrite, add_pointmap_axes
from fast_sam3d.errors import FastSam3dError, OutputError

if TYPE_CHECKING:
    from fast_sam3d.tune.job import Result

log = logging.getLogger(__name__)

KEYS = ("pipeline.ss_steps", "pipeline.slat_steps", "pipeline.depth_model", "pipeline.half_cache")
OVERRIDES = ("pipeline.ss_steps=25", "pipeline.depth_model=FILE")
EMBEDDED_MINUTES = 2.0


def calls(text: str) -> tuple[int, ...]:
    """The type of --calls: one number, or two with a comma."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 2) or any(number < 1 for number in found):
        raise argparse.ArgumentTypeError(
            f"is {text!r}: give the network calls of one object, 22, or those of both samplers, 15,7"
        )
    return found


def share(text: str) -> float:
    """The type of --quality."""
    value: float = at_least(0, float, above=True)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"is {text}: give a voxel IoU up to 1, such as 0.97")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_image_path(parser, f"your own pictures with masks, {FOLDER_HELP} (default: objects of the embedded model)")
    add_pointmap_axes(parser)
    add_model_flags(parser)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--calls", type=calls, metavar="N", help="network calls of one object: of both samplers, 22, or of each, 15,7"
        " (default: as many as the preset `default` makes)",
    )  # fmt: skip
    budget.add_argument(
        "--quality", type=share, metavar="IOU",
        help="the fewest calls whose voxels have this IoU to the unaccelerated ones, such as 0.97 (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=at_least(0, float, above=True), metavar="N",
        help=f"time for everything (default: {EMBEDDED_MINUTES:g} for the embedded model, else that of a dozen runs)",
    )  # fmt: skip
    parser.add_argument("--objects", type=at_least(2), default=8, metavar="N", help="to calibrate on, at most")
    parser.add_argument("--held_out", type=at_least(1), default=8, metavar="N", help="to check the result on, at most")
    parser.add_argument(
        "--sampler", default="own", metavar="NAME",
        help="own, published, mild or a file: of the sparse structure, as of `bench --samplers`",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/tune"), metavar="DIR",
        help="schedules, evidence and picture; an interrupted calibration resumes there",
    )  # fmt: skip
    add_overwrite(parser, "measurements of other settings")
    parser.add_argument(
        "--no_cache", action="store_true", help="only write the files: presets do not take the schedules by themselves"
    )
    parser.add_argument("--no_picture", action="store_true", help="tables only, without matplotlib")


def main(args: argparse.Namespace) -> int:
    """Calibrates, writes and prints."""
    from fast_sam3d.adapters import adapt
    from fast_sam3d.bench.record import open_record
    from fast_sam3d.bench.samplers import find_samplers
    from fast_sam3d.checkpoints.load import check_ready, find_checkpoint, load_checkpoint
    from fast_sam3d.outputs.folder import writable_folder
    from fast_sam3d.outputs.interrupts import on_interrupt
    from fast_sam3d.run.progress import Bar
    from fast_sam3d.tune import evidence
    from fast_sam3d.tune.cases import cases_of
    from fast_sam3d.tune.job import Calibration, Request

    if not args.no_picture and importlib.util.find_spec("matplotlib") is None:
        raise FastSam3dError("the picture needs matplotlib: pip install fast-sam3d[bench], or give --no_picture")
    config = pipeline_from(args, KEYS)
    settings = config.pipeline
    samplers = find_samplers([args.sampler])
    checkpoint = find_checkpoint(settings.tag, settings.device, settings.runtime, settings.model)
    check_ready(checkpoint, settings.device)
    cases = cases_of(
        config.input.image_path, checkpoint, args.objects, args.held_out, config.seed, config.input.pointmap_axes
    )
    minutes = args.minutes or (EMBEDDED_MINUTES if checkpoint.kind == "mini" else None)
    request = Request(minutes, args.calls, args.quality)
    writable_folder(args.output_dir, "--output_dir")
    known = {
        "device": settings.device, "dtype": settings.dtype, "sampler": str(samplers[0]), "cases": cases.identity(),
        "steps": [settings.ss_steps, settings.slat_steps], "depth_model": settings.depth_model,
    }  # fmt: skip
    record = open_record(args.output_dir, checkpoint, cases, known, args.overwrite)
    pipeline = load_checkpoint(checkpoint, *settings.loading)
    adapter = adapt(pipeline)
    for stage in adapter.stages:
        adapter.require_euler(stage)
    if cases.same_objects:
        log.info("fewer than four objects: the check has other seeds of the same objects, not other objects")
    with ExitStack() as stack:
        stack.enter_context(samplers[0].on(pipeline))
        stack.enter_context(adapter.steps_set({"ss": settings.ss_steps, "slat": settings.slat_steps}))
        bar = stack.enter_context(Bar("tune", None))

        def progress(phase: str, spent: float) -> None:
            whole = calibration.seconds
            left = max(whole - spent, 0.0)
            note = f"{int(left // 60)}:{int(left % 60):02d} left" if whole else ""
            bar.update(round(min(spent, whole or spent)), note, f"tune, {phase}", round(whole) or None)

        calibration = Calibration(pipeline, cases, request, record, progress)
        with on_interrupt(f"what is finished is in {args.output_dir}, and the same command resumes"):
            found = calibration.run()
    live = adapter.no_live_layout() is None
    about = {"pipeline": checkpoint.tag, "device": str(pipeline.device), "sampler": samplers[0].label}
    texts = evidence.write(args.output_dir, found, live, about)
    files = [*evidence.SCHEDULES.values(), evidence.EVIDENCE]
    if not args.no_picture:
        from fast_sam3d.tune.picture import draw

        draw(args.output_dir / evidence.PICTURE, found, _title(found, checkpoint.tag))
        files.append(evidence.PICTURE)
    _print(found, checkpoint.tag)
    print(f"results in {args.output_dir}: {', '.join(files)}")
    if not args.no_cache:
        _store(texts, found, args.output_dir)
    return 0


def _print(found: Result, tag: str) -> None:
    from fast_sam3d.cli.tables import print_table
    from fast_sam3d.tune.evidence import HEADER, table

    rows = table(found)
    shown = [number for number in range(len(HEADER)) if number == 0 or any(row[number] for row in rows)]
    header = [HEADER[number] for number in shown]
    print_table(_title(found, tag), header, [tuple(row[number] for number in shown) for row in rows], header[1:])
    for stage, path in found.levels[found.chosen].paths.items():
        print(f"default, {stage}: {path.calls} of {found.facts['baseline_calls'][stage]} calls, steps"
              f" {', '.join(map(str, path.nodes))}")  # fmt: skip


def _title(found: Result, tag: str) -> str:
    names = {case[0] for case in found.facts["check"]}
    what = "with other seeds" if found.facts["same_objects"] else "that the calibration has not seen"
    return f"{tag}: distance to the baseline on {len(names)} object{'s' * (len(names) != 1)} {what}"


def _store(texts: dict[str, str], found: Result, folder: Path) -> None:
    from fast_sam3d.config.measured import store

    try:
        paths = [store(text, found.fingerprint, preset) for preset, text in texts.items()]
    except OSError as error:
        raise OutputError(
            f"the schedules cannot be kept for the presets ({error}): use the files in {folder}, or --no_cache"
        ) from error
    print(f"the presets default and fast take them on this model: {paths[0].parent}")
