"""`fast-sam3d tune`: the fastest settings whose drift stays within a share of the seed noise, on your own pipeline."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.cli.arguments import SHARED, at_least, seeds
from fast_sam3d.cli.flags import (
    FOLDER_HELP,
    add_image_path,
    add_model_flags,
    add_overwrite,
    add_preset,
    pipeline_from,
    preset_of,
)
from fast_sam3d.errors import FastSam3dError, InputError

if TYPE_CHECKING:
    from fast_sam3d.bench.objects import Objects
    from fast_sam3d.checkpoints.load import Checkpoint
    from fast_sam3d.tune.measurements import Case
    from fast_sam3d.tune.plan import SearchPlan

COSTS = ("seconds", "cpu_seconds", "calls", "operations")
LEAST_OBJECTS = 4
OVERRIDES = SHARED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "--budget", type=at_least(0, float, above=True), default=0.33, metavar="SHARE",
        help="how far results may drift from the unaccelerated ones, in units of the seed noise: the distance of two"
        " unaccelerated results with different seeds",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=at_least(0, float, above=True), default=20.0, metavar="N", help="time for everything"
    )
    parser.add_argument("--trials", type=at_least(1), metavar="N", help="most candidates (default: no limit)")
    add_image_path(
        parser, f"your own pictures with masks, {FOLDER_HELP} (default: held-out objects of the embedded model)"
    )
    # At least two: one object has no spread.
    parser.add_argument("--objects", type=at_least(2), default=8, metavar="N", help="to search on, at most")
    parser.add_argument("--held_out", type=at_least(2), default=8, metavar="N", help="to validate on, at most")
    parser.add_argument("--seeds", type=seeds, default="42", metavar="N,N", help="seeds of the noise")
    add_model_flags(parser, seed=False)
    add_preset(parser, "the search begins with the methods of this one", "none")
    parser.add_argument("--cost", choices=COSTS, default="seconds", help="what to save")
    parser.add_argument(
        "--measures", default=None, metavar="NAME,NAME",
        help="measures that must stay within the budget (default: voxel_iou,f1@0.01,box_iou,add_s,ssim)",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=at_least(0, float), default=1.0, metavar="N",
        help="standard errors added to a drift before it is compared with the budget",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/tune"), metavar="DIR",
        help="preset, evidence and picture; an interrupted search resumes there",
    )  # fmt: skip
    add_overwrite(parser, "measurements, also those of other settings")
    parser.add_argument("--no_picture", action="store_true", help="tables only, without matplotlib")


def main(args: argparse.Namespace) -> int:
    """Searches, writes and prints; KeyboardInterrupt after an interrupted search, with the best so far written."""
    import torch

    from fast_sam3d.bench.record import open_record
    from fast_sam3d.checkpoints.load import find_checkpoint, load_checkpoint
    from fast_sam3d.outputs.folder import writable_folder
    from fast_sam3d.run.object import RunSettings
    from fast_sam3d.run.progress import Bar
    from fast_sam3d.tune import results
    from fast_sam3d.tune.drift import GUARDED, check_measures
    from fast_sam3d.tune.measurements import Measurements
    from fast_sam3d.tune.runner import PipelineRunner
    from fast_sam3d.tune.search import Search
    from fast_sam3d.tune.space import EXACT

    measures = check_measures(GUARDED if args.measures is None else args.measures.split(","))
    _check_packages(args)
    config, first = pipeline_from(args), preset_of(args)
    settings, pictures = config.pipeline, config.input.image_path
    checkpoint = find_checkpoint(settings.tag, settings.device, settings.runtime)
    objects, searched, held_out = _objects(args, pictures, checkpoint)
    plan = _plan(args, checkpoint, _cases(searched, args.seeds), _cases(held_out, args.seeds), first)
    writable_folder(args.output_dir, "--output_dir")
    operations = args.cost == "operations"
    known = {
        "device": settings.device,
        "dtype": settings.dtype,
        "formats": list(settings.formats),
        "refine_pose": settings.layout_postprocess,
        "measures": list(measures),
        "operations": operations,
    }
    record = open_record(args.output_dir, checkpoint, objects, known, args.overwrite)
    pipeline = load_checkpoint(checkpoint, *settings.loading)
    _refuse_other_solvers(pipeline)
    counted = frozenset(plan.cases[:1] + plan.held_out[:1]) if operations else frozenset()
    runner = PipelineRunner(pipeline, objects, RunSettings.of(0, settings), measures, counted)
    measurements = Measurements(runner, measures, args.cost, record)
    with Bar("tune", plan.seconds) as bar:

        def progress(phase: str, spent: float, note: str) -> None:
            left = max(plan.seconds - spent, 0.0)
            note = f"{int(left // 60)}:{int(left % 60):02d} left{note and f', {note}'}"
            bar.update(min(spent, plan.seconds), note, f"tune, {phase}")

        found = Search(plan, measurements, progress).run()
    plain = measurements.verdict(EXACT, found.cases)
    exact = plain, measurements.verdict(EXACT, found.held_out_cases) if found.held_out_cases else None
    source = "your own pictures" if pictures is not None else "held-out objects of the embedded model"
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    about = results.SearchInfo(checkpoint.tag, source, args.cost, measurements.spent, machine)
    written = results.write(args.output_dir, found, exact, plan, about)
    if not args.no_picture:
        from fast_sam3d.tune.plot import draw

        draw(args.output_dir / results.PICTURE, found, plain, plan)
        written.append(results.PICTURE)
    if found.interrupted:
        best = args.output_dir / results.PRESET
        raise KeyboardInterrupt(f"the best so far is in {best}, and the same command resumes the search")
    print((args.output_dir / results.TABLE).read_text())
    print(f"results in {args.output_dir}: {', '.join(written)}")
    return 0


def _check_packages(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("optuna") is None:
        raise FastSam3dError("the search needs optuna: pip install fast-sam3d[tune]")
    if not args.no_picture and importlib.util.find_spec("matplotlib") is None:
        raise FastSam3dError("the picture needs matplotlib: pip install fast-sam3d[tune], or give --no_picture")


def _objects(
    args: argparse.Namespace, pictures: Path | None, checkpoint: Checkpoint
) -> tuple[Objects, list[str], list[str]]:
    """The source of objects, those to search on, and those held out."""
    from fast_sam3d.bench.objects import Folder, held_out

    if pictures is None:
        known = held_out(checkpoint, args.objects + args.held_out)
        names = list(known.names())
        return known, names[: args.objects], names[args.objects :]
    folder = Folder(pictures)
    names = list(folder.names())
    if len(names) < LEAST_OBJECTS:
        raise InputError(
            f"--image_path {pictures} holds {len(names)} masked object{'s' * (len(names) != 1)}: tuning needs at"
            f" least {LEAST_OBJECTS}, two to search on and two to check the outcome"
        )
    return folder, *split(names, args.objects, args.held_out)


def split(names: Sequence[str], searched: int, held_out: int) -> tuple[list[str], list[str]]:
    """Every third object is held out, at least two of them; neither part exceeds its number."""
    count = min(max(2, len(names) // 3), held_out)
    places = {int((number + 0.5) * len(names) / count) for number in range(count)}
    kept = [name for place, name in enumerate(names) if place not in places]
    return kept[:searched], [names[place] for place in sorted(places)]


def _cases(names: Sequence[str], seeds: Sequence[int]) -> tuple[Case, ...]:
    """All objects with the first seed, then all with the next, so that few cases cover many objects."""
    return tuple((name, seed) for seed in seeds for name in names)


def _plan(args: argparse.Namespace, checkpoint: Checkpoint, cases: Any, held_out: Any, first: str | None) -> SearchPlan:
    from fast_sam3d.config.compose import load
    from fast_sam3d.tune.plan import SearchPlan
    from fast_sam3d.tune.space import STAGES, methods

    embedded = checkpoint.kind == "mini"
    options = load([] if first is None else [f"preset={first}"]).choices
    # What the search tries first is the first method of each stage.
    known = {
        stage: sorted(methods(stage, embedded), key=lambda method: method.option != options[stage]) for stage in STAGES
    }
    return SearchPlan(args.budget, cases, held_out, known, 60.0 * args.minutes, args.trials, args.margin)


def _refuse_other_solvers(pipeline: Any) -> None:
    """Raises SolverError now where step caching would raise it during the search."""
    from fast_sam3d.api import accelerate

    always = {"when": {"name": "always"}}
    accelerate(pipeline, {"ss": always, "slat": always}).remove()
