"""`fast-sam3d bench`: methods against each other on the same objects and seeds, with tables and pictures."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.cli.arguments import PROCESSES, SHARED, at_least, names, seeds
from fast_sam3d.cli.configuration import overrides_of, pipeline_from
from fast_sam3d.cli.flags import (
    FOLDER_HELP,
    add_image_path,
    add_model_flags,
    add_overwrite,
    add_pointmap_axes,
    add_ways,
    cores,
)

if TYPE_CHECKING:
    from fast_sam3d.bench.job import BenchTask
    from fast_sam3d.bench.record import Record
    from fast_sam3d.bench.suite import Suite

log = logging.getLogger(__name__)

FAILED = 1
OVERRIDES = SHARED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "--suite", metavar="NAME", help="quick, full, ablation, sweeps, trellis, or a file (default: quick, or trellis)"
    )
    add_ways(
        parser, "one more method, without --suite the only one", "those of the suite",
        ', such as "ss=fast_sam3d mesh=off" or, as a control, "pipeline.ss_steps=10" (default: none)',
    )  # fmt: skip
    parser.add_argument("--objects", type=at_least(1), metavar="N", help="how many (default: the suite's)")
    parser.add_argument(
        "--samplers", type=names, metavar="NAME,NAME",
        help="of the sparse structure: published, mild, own, or files; each has its own baseline (default: the suite's,"
        " else published on the embedded model and own on other weights)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=seeds, metavar="N,N", help="seeds of the noise (default: the suite's)")
    add_image_path(
        parser, f"your own pictures with masks, {FOLDER_HELP}; without ground truth, so fidelity is measured alone"
        " (default: held-out objects of the embedded model)",
    )  # fmt: skip
    add_pointmap_axes(parser)
    add_model_flags(parser, seed=False)
    parser.add_argument(
        "--output_dir", type=Path, metavar="DIR",
        help="rows, table and pictures; an interrupted bench resumes there (default: outputs/bench/SUITE)",
    )  # fmt: skip
    parser.add_argument(
        "--processes",
        type=PROCESSES,
        metavar="N",
        help="worker processes (default: one per core; 1 on a GPU)",
    )
    add_overwrite(parser, "measurements, also those of other settings")
    parser.add_argument("--retry_failed", action="store_true", help="repeat objects with a failed run")
    parser.add_argument("--no_pictures", action="store_true", help="tables only, without matplotlib")
    parser.add_argument("--parquet", action="store_true", help="also write rows.parquet; needs pyarrow")


def main(args: argparse.Namespace) -> int:
    """Measures, writes and prints; 1 if a run has failed."""
    from fast_sam3d.bench import results
    from fast_sam3d.outputs.folder import writable_folder
    from fast_sam3d.outputs.interrupts import on_interrupt

    suite = chosen_suite(args)
    suite.variants(args.model or "sam3d")  # a method that does not fit raises before anything is loaded
    results.check_packages(pictures=not args.no_pictures, parquet=args.parquet)
    job, suite = _job(args, suite)
    output = args.output_dir or Path("outputs/bench") / suite.name
    writable_folder(output, "--output_dir")
    record = _record(output, job, args)
    with on_interrupt(f"what is measured is in {output}, and the same command resumes"):
        rows, about = measure(job, suite, _processes(args, job), record)
    found = results.write(output, rows, suite, about, pictures=not args.no_pictures, parquet=args.parquet)
    print((output / results.TABLE).read_text())
    print(f"results in {output}: {', '.join(found)}")
    failed = [row for row in rows if row["error"]]
    if failed:
        print(f"{len(failed)} of {len(rows)} runs failed: see the column error of {output / results.ROWS}")
    return FAILED if failed else 0


def chosen_suite(args: argparse.Namespace) -> Suite:
    """The suite with the changes of the flags.

    Raises:
        ConfigError: an error in the suite or in a flag.
    """
    from fast_sam3d.bench.suite import load_suite

    suite = load_suite(args.suite or ("trellis" if args.model == "trellis" else "quick"))
    if more := overrides_of(args):
        suite = suite.with_methods(more, alone=args.suite is None)
        suite = replace(suite, name=suite.name if args.suite else "own")
    given = {name: value for name in ("objects", "samplers", "seeds") if (value := getattr(args, name)) is not None}
    return replace(suite, **given)


def measure(
    job: BenchTask, suite: Suite, processes: int, kept: Record | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a suite, and lines that describe it."""
    import torch

    from fast_sam3d.bench import cautions
    from fast_sam3d.bench.collect import collect
    from fast_sam3d.bench.job import keys_of, start, work

    names = job.objects.names()
    keys = keys_of(names, suite.seeds, job.samplers)
    # One process uses all of torch's threads; several use one each.
    threads = None if processes == 1 else 1
    each = torch.get_num_threads() if threads is None else threads
    doubts = cautions.before(len(names), processes, each)
    for sentence in doubts:
        log.warning("%s", sentence)
    log.info("each process first runs the %d variants with few steps, which is not counted", len(job.variants))
    found = collect(keys, start, work, job, processes, threads, kept, runs=len(job.variants))
    rows = [row for rows in found.values() for row in rows]
    if _on_cpu(job):
        doubts += cautions.after(rows, each)
    seeds = f"{len(suite.seeds)} seed{'s' * (len(suite.seeds) > 1)} ({', '.join(map(str, suite.seeds))})"
    objects = "object" + "s" * (len(names) != 1)
    source = f"held-out {objects}" if job.objects.truth else f"{objects} of your own pictures, without ground truth"
    about = [
        f"Suite `{suite.name}` on `{job.checkpoint.tag}`: {len(names)} {source}, {seeds}, 25 + 25 steps unless named.",
        f"{processes} process{'es' * (processes > 1)}, {each} thread{'s' * (each > 1)} each, torch {torch.__version__},"
        f" formats {', '.join(job.settings.formats or ())}, pose {'' if job.settings.refine_pose else 'not '}refined."
        " Errors are standard errors over the objects.",
        f"Samplers of the sparse structure: {', '.join(sampler.label for sampler in job.samplers)}.",
        *(f"**Caution:** {sentence}." for sentence in doubts),
    ]
    return rows, about


def _job(args: argparse.Namespace, suite: Suite) -> tuple[BenchTask, Suite]:
    """What to run, and the suite with the number of objects that exist."""
    from fast_sam3d.bench.job import BenchTask
    from fast_sam3d.bench.objects import Folder, Objects, held_out
    from fast_sam3d.bench.samplers import samplers_for
    from fast_sam3d.checkpoints.load import check_ready, find_checkpoint
    from fast_sam3d.run.object import RunSettings

    config = pipeline_from(args)
    pipeline, pictures = config.pipeline, config.input.image_path
    checkpoint = find_checkpoint(pipeline.tag, pipeline.device, pipeline.runtime, pipeline.model)
    check_ready(checkpoint, pipeline.device)
    samplers = samplers_for(checkpoint.kind, checkpoint.tag, suite.samplers)
    objects: Objects
    if pictures is None:
        objects = held_out(checkpoint, suite.objects)
    else:
        objects = Folder(pictures, args.objects, config.input.pointmap_axes, model=pipeline.model)
        log.info("%s has no ground truth: fidelity to the unaccelerated result is measured alone", pictures)
    names = objects.names()
    counted = frozenset((name, seed) for name in names[:1] for seed in suite.seeds[:1])
    job = BenchTask(checkpoint, suite.variants(pipeline.model), objects, pipeline.loading, RunSettings.of(0, pipeline),
                    counted, samplers=samplers)  # fmt: skip
    return job, replace(suite, objects=len(names))


def _record(output: Path, job: BenchTask, args: argparse.Namespace) -> Record:
    """The rows of an earlier run with the same weights, code, methods and objects."""
    from fast_sam3d.bench.record import open_record

    settings = {
        "variants": [asdict(variant) for variant in job.variants],
        "device": job.loading.device,
        "dtype": job.loading.dtype,
        "formats": list(job.settings.formats or ()),
        "refine_pose": job.settings.refine_pose,
        "counted": sorted(job.counted),
        "protocol": asdict(job.protocol),
    }
    record = open_record(output, job.checkpoint, job.objects, settings, args.overwrite)
    if args.retry_failed:
        record.rows = {key: rows for key, rows in record.rows.items() if not any(row["error"] for row in rows)}
    return record


def _processes(args: argparse.Namespace, job: BenchTask) -> int:
    if args.processes is not None:
        return int(args.processes)
    return cores() if _on_cpu(job) and job.checkpoint.kind == "mini" else 1


def _on_cpu(job: BenchTask) -> bool:
    import torch

    return str(job.loading.device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cpu")
