"""`fast-sam3d profile`: where the time of an object goes, off and accelerated, measured in turns, with a picture."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.cli.tables import aligned
from fast_sam3d.config.compose import check_methods, load
from fast_sam3d.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from fast_sam3d.bench.profile import Timing

OVERRIDES = True
WAYS = ("exact=all", "preset=fast_sam3d", "preset=default", "preset=fast")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("--image_path", required=True, metavar="PATH", help="a folder with image.png and masks")
    parser.add_argument("--mask_index", type=int, default=None, metavar="N", help="default: the lowest")
    parser.add_argument("--tag", default=None, metavar="TAG", help="mini, or a folder under checkpoints/")
    parser.add_argument("--device", default=None, metavar="DEVICE", help="cpu, cuda (default: cuda if there is one)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each way that count; medians are told")
    parser.add_argument(
        "--accelerate", action="append", default=[], metavar="OVERRIDES",
        help=f"a way to run, repeatable (default: {', '.join(WAYS)})",
    )  # fmt: skip
    parser.add_argument(
        "--after_mask", type=int, default=None, metavar="N",
        help="let its mask N go first, and time each way once more with what that one leaves behind",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, default=Path("profile.png"), help="stacked bars (default: profile.png)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="every number, for other tools")


def main(args: argparse.Namespace) -> int:
    """Measure, print the table, draw the picture."""
    import torch

    from fast_sam3d.bench.profile import draw, profile
    from fast_sam3d.checkpoints.load import find_checkpoint, load_checkpoint
    from fast_sam3d.cli.arguments import check_run_overrides
    from fast_sam3d.inputs.load import load_object
    from fast_sam3d.run.object import ObjectRun, RunSettings, run_object
    from fast_sam3d.run.progress import Bar

    if args.rounds < 1:
        raise ConfigError(f"--rounds is {args.rounds}: give at least 1")
    ways: dict[str, Any] = {}
    for overrides in args.accelerate or WAYS:
        config = load(overrides.split())
        check_methods(config)
        ways[overrides] = dict(config.modules)
    for path in filter(None, (args.picture, args.json)):
        if not path.resolve().parent.is_dir():
            raise OutputError(f"{path.resolve().parent} does not exist: make it, or name another place")
    plain = load(check_run_overrides(args.overrides), {key: value for key, value in {
        "input.image_path": args.image_path, "input.mask_index": args.mask_index,
        "pipeline.tag": args.tag, "pipeline.device": args.device,
    }.items() if value is not None})  # fmt: skip
    given = load_object(args.image_path, plain.input.mask_index, None, plain.input.pointmap)
    other, after = None, {}
    if args.after_mask is not None:
        other = load_object(args.image_path, args.after_mask, None, plain.input.pointmap).mask
        after = {f"{way}, after mask {args.after_mask}": settings for way, settings in ways.items()}
    checkpoint = find_checkpoint(plain.pipeline.tag)
    pipeline = load_checkpoint(checkpoint, plain.pipeline.device, plain.pipeline.dtype, plain.pipeline.depth_model)
    settings = RunSettings.of(plain.seed, plain.pipeline)

    def run(mask: Any = given.mask) -> ObjectRun:
        return run_object(pipeline, given.image, mask, given.pointmap, settings=settings)

    def earlier() -> None:
        if other is not None:
            run(other)

    with Bar("profile", None) as bar:

        def tell(done: int, total: int) -> None:
            bar.update(done, total=total)

        timings = profile(pipeline, run, ways | after, args.rounds, tell, earlier, after)
    print("\n".join(lines(timings)))
    if args.json is not None:
        facts = [
            {"name": t.name, "seconds": t.seconds, "network_calls": t.network_calls, "pose_refined": t.pose_refined}
            for t in timings
        ]
        args.json.write_text(json.dumps(facts, indent=1))
    threads = f", {torch.get_num_threads()} threads" if pipeline.device.type == "cpu" else ""
    draw(timings, args.picture, f"{given.name}, {checkpoint.tag} on {pipeline.device}{threads}")
    print(f"picture in {args.picture}")
    return 0


def lines(timings: list[Timing]) -> list[str]:
    """The table: stages down, ways across; then the whole, the median ratio, and the calls of the networks."""
    from fast_sam3d.run.progress import STAGES

    medians = [timing.medians() for timing in timings]
    stages = [stage for stage in (*STAGES, "other") if any(stage in median for median in medians)]
    rows = [["median seconds", *(timing.name for timing in timings)]]
    rows += [[STAGES.get(stage, stage), *(f"{median.get(stage, 0.0):.3f}" for median in medians)] for stage in stages]
    rows.append(["whole object", *(f"{statistics.median(timing.totals):.3f}" for timing in timings)])
    ratios = [timing.ratios(timings[0]) for timing in timings]
    rows.append(["faster", *(f"{statistics.median(ratio):.2f}x" for ratio in ratios)])
    rows.append(["from .. to", *(f"{min(ratio):.2f} .. {max(ratio):.2f}" for ratio in ratios)])
    rows.append(["network calls", *(str(timing.network_calls) for timing in timings)])
    rows.append(["pose refined", *("yes" if timing.pose_refined else "no" for timing in timings)])
    return aligned(rows)
