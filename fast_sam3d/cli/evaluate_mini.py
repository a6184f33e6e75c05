"""`fast-sam3d evaluate-mini`: quality on held-out objects, and whether methods can be compared on the model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.cli.arguments import PROCESSES, at_least
from fast_sam3d.cli.configuration import overrides_of
from fast_sam3d.cli.flags import add_overwrite, add_sampler, add_ways, cores
from fast_sam3d.cli.tables import print_table
from fast_sam3d.errors import ConfigError

STRENGTHS = ("ss_cfg_strength", "slat_cfg_strength")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "--tag", "--checkpoint_dir", default="mini", metavar="TAG",
        help="mini, a folder under checkpoints/, or the path of a checkpoint, such as train-mini's RUN_DIR/checkpoint",
    )  # fmt: skip
    parser.add_argument("--objects", type=at_least(1), metavar="N", default=160, help="held-out objects")
    parser.add_argument(
        "--output_dir", type=Path, metavar="DIR", default=Path("outputs/evaluate-mini"),
        help="rows and summary; an interrupted evaluation resumes there",
    )  # fmt: skip
    add_overwrite(parser, "measurements, also those of other settings")
    parser.add_argument(
        "--processes",
        type=PROCESSES,
        metavar="N",
        default=cores(),
        help="worker processes, one thread each",
    )
    parser.add_argument(
        "--stiffness", action="store_true",
        help="also 5 and 10 steps, linear and hold caching at stride 3, another noise seed, and no pointmap, paired",
    )  # fmt: skip
    add_ways(
        parser, "also with this one", "none", ', such as "ss=fast_sam3d mesh=fast_sam3d" or, as a control,'
        ' "pipeline.ss_steps=10 pipeline.slat_steps=8" or "seed=43" (default: none)',
    )  # fmt: skip
    add_sampler(parser)
    for name in STRENGTHS:
        parser.add_argument(
            f"--{name}", type=at_least(0, float), metavar="W", help="guidance (default: the checkpoint's)"
        )


def main(args: argparse.Namespace) -> int:
    """Measure and print tables; 0 even if a requirement is missed."""
    from fast_sam3d.bench.evaluate_mini import accelerated_variant, measure, stiffness_variants
    from fast_sam3d.bench.samplers import find_samplers
    from fast_sam3d.checkpoints.load import find_checkpoint

    (sampler,) = find_samplers([args.sampler])
    sampling = {name: strength for name in STRENGTHS if (strength := getattr(args, name)) is not None}
    checkpoint = find_checkpoint(args.tag)
    if checkpoint.kind != "mini":
        raise ConfigError(f"--tag {args.tag} is not a checkpoint of the embedded model: give mini, or one that is")
    others = [*(stiffness_variants() if args.stiffness else ()), *map(accelerated_variant, overrides_of(args))]
    own = (sampling, args.overwrite, sampler)
    show(measure(checkpoint.folder, args.objects, args.processes, args.output_dir, others, *own))
    return 0


def show(summary: Mapping[str, Any]) -> None:
    """Print the tables of a summary."""
    from fast_sam3d.bench.evaluate_mini import CHECKS
    from fast_sam3d.mini.train.card import BARS, with_error

    rows = []
    for name, (middle, error) in summary["overall"].items():
        bar, more = BARS.get(name, (None, False))
        reached = bar is not None and ((middle >= bar) == more or middle == bar)
        said = "" if bar is None else f"{'≥' if more else '≤'} {bar} {'reached' if reached else 'missed'}"
        rows.append((name, with_error((middle, error)), said))
    print_table(
        f"{summary['objects']} held-out objects, 25 + 25 steps, sampler {summary.get('sampler', 'own')}",
        ("metric", "mean ± s.e.", "bar"),
        rows,
    )
    shown = ("f1@0.05", "f1@0.01", "chamfer", "voxel_iou", "box_iou", "rotation_deg")
    families = [
        (family, *(f"{scores[name][0]:.3f}" if name in scores else "" for name in shown))
        for family, scores in summary["families"].items()
    ]
    print_table("by family", ("family", *shown), families)
    if summary["variants"]:
        fidelity = ("base_voxel_iou", "base_f1@0.01", "base_rotation_deg")
        differs = ("f1@0.05", "f1@0.01", "voxel_iou", "box_iou")
        rows = []
        for name, scores in summary["variants"].items():
            paired = scores["against_base"]
            rows.append((
                name,
                "{:.2f}x".format(paired["speedup"][0]) if "speedup" in paired else "",
                f"{scores['network_calls'][0]:.0f}" if "network_calls" in scores else "",
                *(with_error(scores[key]) if key in scores else "" for key in fidelity),
                *(with_error(paired[key], "+.4f") if key in paired else "" for key in differs),
            ))  # fmt: skip
        headings = ("variant", "faster", "calls", *fidelity, *(f"Δ {name}" for name in differs))
        print_table("against 25 steps, paired; calls of the networks per object", headings, rows)
    for name, check in summary.get("stiffness", {}).items():
        verdict = "clear" if check["clear"] else "not clear"
        differences = (f"{key} {with_error(found, '+.4f')}" for key, found in check["differences"].items())
        print(f"{CHECKS[name]}: {verdict} ({', '.join(differences)})")
