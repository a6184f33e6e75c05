"""`fast-sam3d evaluate-mini`: quality on held-out objects, and whether methods can be compared on the model."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.cli.flags import add_preset, overrides_of
from fast_sam3d.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--tag", default="mini", metavar="TAG", help="mini, a folder under checkpoints/, or the path of a checkpoint"
    )
    parser.add_argument(
        "--checkpoint_dir", type=Path, default=None, metavar="DIR", help="the same as a path (default: that of --tag)"
    )
    parser.add_argument("--objects", type=int, default=160, help="held-out objects")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/evaluate-mini"),
        help="rows and summary; an interrupted evaluation resumes there",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace measurements, also those of other settings")
    parser.add_argument("--processes", type=int, default=cores, help="worker processes, one thread each")
    parser.add_argument(
        "--stiffness", action="store_true",
        help="also 5 and 10 steps, linear and hold caching at stride 3, another noise seed, and no pointmap, paired",
    )  # fmt: skip
    add_preset(parser, "also with this one; repeatable", "none", repeat=True)
    parser.add_argument(
        "--accelerate", action="append", default=[], metavar="OVERRIDES",
        help='also with these overrides, such as "preset=fast_sam3d", "ss=fast_sam3d mesh=fast_sam3d" or, as a control,'
        ' "pipeline.ss_steps=10 pipeline.slat_steps=8" or "seed=43"; repeatable (default: none)',
    )  # fmt: skip
    parser.add_argument("--ss_cfg_strength", type=float, default=None, help="guidance (default: the checkpoint's)")
    parser.add_argument("--slat_cfg_strength", type=float, default=None, help="guidance (default: the checkpoint's)")


def main(args: argparse.Namespace) -> int:
    """Measure and print tables; 0 even if a requirement is missed."""
    from fast_sam3d.bench.evaluate_mini import accelerated_variant, measure, stiffness_variants
    from fast_sam3d.model.config_file import CONFIG_NAME

    if args.objects < 1 or args.processes < 1:
        raise ConfigError("--objects and --processes must be at least 1")
    sampling = {}
    for name in ("ss_cfg_strength", "slat_cfg_strength"):
        strength = getattr(args, name)
        if strength is None:
            continue
        if not 0 <= strength < math.inf:
            raise ConfigError(f"--{name} must be a finite number from 0 up, got {strength}")
        sampling[name] = strength
    if args.checkpoint_dir is not None and not (args.checkpoint_dir / CONFIG_NAME).is_file():
        raise ConfigError(
            f"--checkpoint_dir {args.checkpoint_dir} holds no {CONFIG_NAME}: give the folder to which train-mini"
            " exported the weights (RUN_DIR/checkpoint), or omit the flag for the embedded weights"
        )
    checkpoint = args.checkpoint_dir or _folder_of(args.tag)
    others = [*(stiffness_variants() if args.stiffness else ()), *map(accelerated_variant, overrides_of(args))]
    show(measure(checkpoint, args.objects, args.processes, args.output_dir, others, sampling, args.overwrite))
    return 0


def _folder_of(tag: str) -> Path:
    from fast_sam3d.checkpoints.load import find_checkpoint

    found = find_checkpoint(tag)
    if found.kind != "mini":
        raise ConfigError(f"--tag {tag} is not a checkpoint of the embedded model: give mini, or one that is")
    return found.folder


WIDTH = 170


def show(summary: Mapping[str, Any]) -> None:
    """Print the tables of a summary."""
    from rich.console import Console
    from rich.table import Table

    from fast_sam3d.bench.evaluate_mini import CHECKS
    from fast_sam3d.mini.train.card import BARS, with_error

    # A file or a pipe has no width, and the default of 80 columns would truncate the tables' cells.
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    table = Table("metric", "mean ± s.e.", "bar", title=f"{summary['objects']} held-out objects, 25 + 25 steps")
    for name, (middle, error) in summary["overall"].items():
        if name in BARS:
            bar, more = BARS[name]
            verdict = "reached" if (middle >= bar) == more or middle == bar else "missed"
            table.add_row(name, with_error((middle, error)), f"{'≥' if more else '≤'} {bar} {verdict}")
        else:
            table.add_row(name, with_error((middle, error)), "")
    console.print(table)
    shown = ("f1@0.05", "f1@0.01", "chamfer", "voxel_iou", "box_iou", "rotation_deg")
    families = Table("family", *shown, title="by family")
    for family, scores in summary["families"].items():
        families.add_row(family, *(f"{scores[name][0]:.3f}" if name in scores else "" for name in shown))
    console.print(families)
    if summary["variants"]:
        fidelity = ("base_voxel_iou", "base_f1@0.01", "base_rotation_deg")
        differs = ("f1@0.05", "f1@0.01", "voxel_iou", "box_iou")
        table = Table(
            "variant", "faster", "calls", *fidelity, *(f"Δ {name}" for name in differs),
            title="against 25 steps, paired; calls of the networks per object",
        )  # fmt: skip
        for name, scores in summary["variants"].items():
            cells = [f"{scores['network_calls'][0]:.0f}" if "network_calls" in scores else ""]
            cells += [with_error(scores[key]) if key in scores else "" for key in fidelity]
            paired = scores["against_base"]
            cells += [with_error(paired[key], "+.4f") if key in paired else "" for key in differs]
            table.add_row(name, "{:.2f}x".format(paired["speedup"][0]) if "speedup" in paired else "", *cells)
        console.print(table)
    for name, check in summary.get("stiffness", {}).items():
        verdict = "clear" if check["clear"] else "not clear"
        differences = (f"{key} {with_error(found, '+.4f')}" for key, found in check["differences"].items())
        console.print(f"{CHECKS[name]}: {verdict} ({', '.join(differences)})")
