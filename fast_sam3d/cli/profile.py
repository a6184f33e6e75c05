"""`fast-sam3d profile`: seconds per stage of one object, without and with acceleration, in alternating runs."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.cli.arguments import SHARED
from fast_sam3d.cli.configuration import overrides_of, pipeline_from
from fast_sam3d.cli.flags import (
    INPUT_HELP,
    add_image_path,
    add_mask_index,
    add_model_flags,
    add_overwrite,
    add_rounds,
    add_sampler,
    add_ways,
)
from fast_sam3d.cli.tables import aligned
from fast_sam3d.config.compose import check_methods, load
from fast_sam3d.outputs.files import save_json
from fast_sam3d.outputs.folder import check_file

if TYPE_CHECKING:
    from fast_sam3d.bench.profile import Timing

OVERRIDES = SHARED
WAYS = ("exact=all", "preset=fast_sam3d", "preset=default", "preset=fast")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    add_image_path(parser, INPUT_HELP, required=True)
    add_mask_index(parser)
    add_model_flags(parser)
    add_sampler(parser)
    add_rounds(parser, 7)
    add_ways(parser, "a way to run", "fast_sam3d, default and fast", f" (default without --preset: {', '.join(WAYS)})")
    parser.add_argument(
        "--after_mask", type=int, metavar="N",
        help="also time each variant after a run of mask N, with warm caches (default: none)",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, default=Path("profile.png"), metavar="FILE", help="stacked bars")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every number (default: none)")
    add_overwrite(parser, "the files of an earlier measurement")


def main(args: argparse.Namespace) -> int:
    """Measures, prints the table, draws the picture."""
    import torch

    from fast_sam3d.bench.profile import draw, profile
    from fast_sam3d.bench.samplers import OWN, find_samplers
    from fast_sam3d.checkpoints.load import find_checkpoint, load_checkpoint
    from fast_sam3d.config.resolve import own_modules
    from fast_sam3d.inputs.load import load_object
    from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
    from fast_sam3d.run.progress import Bar

    (sampler,) = find_samplers([args.sampler])
    ways: dict[str, Any] = {}
    for overrides in overrides_of(args) or WAYS:
        config = load(overrides.split(), {"pipeline.model": args.model or "sam3d"})
        check_methods(config)
        ways[overrides] = dict(own_modules(config))
    for path in filter(None, (args.picture, args.json)):
        check_file(path, args.overwrite)
    plain = pipeline_from(args)
    asked, picture = plain.pipeline, plain.input.image_path or Path()
    given = load_object(picture, plain.input.mask_index, None, plain.input.pointmap, plain.input.pointmap_axes)
    other, after = None, {}
    if args.after_mask is not None:
        other = load_object(picture, args.after_mask, None, plain.input.pointmap, plain.input.pointmap_axes).mask
        after = {f"{way}, after mask {args.after_mask}": settings for way, settings in ways.items()}
    checkpoint = find_checkpoint(asked.tag, asked.device, asked.runtime, asked.model)
    pipeline = load_checkpoint(checkpoint, *asked.loading)
    settings = RunSettings.of(plain.seed, asked)

    own = given.mask_for(asked.model)

    def run(mask: Any = own) -> ObjectRun:
        return run_object(pipeline, given.image, mask, given.pointmap, settings=settings)

    def earlier() -> None:
        if other is not None:
            run(other)

    with sampler.on(pipeline), Bar("profile", None) as bar:
        timings = profile(
            pipeline, run, ways | after, args.rounds, lambda done, total: bar.update(done, total=total), earlier, after
        )
    print("\n".join(lines(timings)))
    if args.json is not None:
        save_json(args.json, [asdict(timing) for timing in timings])
    threads = f", {torch.get_num_threads()} threads" if pipeline.device.type == "cpu" else ""
    under = "" if sampler == OWN else f", sampler {sampler.label}"
    draw(timings, args.picture, f"{given.name}, {checkpoint.tag} on {pipeline.device}{threads}{under}")
    print(f"picture in {args.picture}")
    return 0


def lines(timings: list[Timing]) -> list[str]:
    """A row per stage, a column per variant; then the whole, the median ratio, and the calls of the networks."""
    from fast_sam3d.run.progress import STAGES

    medians = [timing.medians() for timing in timings]
    stages = [stage for stage in (*STAGES, "other") if any(stage in median for median in medians)]
    rows = [["median seconds", *(timing.name for timing in timings)]]
    rows += [[STAGES.get(stage, stage), *(f"{median.get(stage, 0.0):.3f}" for median in medians)] for stage in stages]
    rows.append(["whole object", *(f"{timing.median:.3f}" for timing in timings)])
    ratios = [timing.ratios(timings[0]) for timing in timings]
    rows.append(["faster", *(f"{statistics.median(ratio):.2f}x" for ratio in ratios)])
    rows.append(["from .. to", *(f"{min(ratio):.2f} .. {max(ratio):.2f}" for ratio in ratios)])
    rows.append(["network calls", *(str(timing.network_calls) for timing in timings)])
    rows.append(["pose refined", *("yes" if timing.pose_refined else "no" for timing in timings)])
    return aligned(rows)
