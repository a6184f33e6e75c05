"""`fast-sam3d evaluate-mini`: quality on held-out objects, and whether the model is stiff enough to judge methods."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fast_sam3d.errors import ConfigError

# Metric: (bar, whether more is better). From the project's acceptance of the embedded model.
BARS: dict[str, tuple[float, bool]] = {
    "f1@0.05": (0.92, True),
    "f1@0.01": (0.22, True),
    "chamfer": (0.022, False),
    "voxel_iou": (0.38, True),
    "box_iou": (0.78, True),
    "rotation_deg": (12.0, False),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--checkpoint_dir", type=Path, default=None, help="default: the embedded weights")
    parser.add_argument("--objects", type=int, default=160, help="held-out objects")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/evaluate-mini"),
        help="rows and summary; the same command goes on after a stop",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="measure again what an earlier start has finished")
    parser.add_argument("--processes", type=int, default=cores, help="one object each at a time, one thread each")
    parser.add_argument(
        "--stiffness", action="store_true",
        help="also 5 Euler steps, linear and hold caching at stride 3, and another noise seed, paired",
    )  # fmt: skip
    parser.add_argument(
        "--accelerate", action="append", default=[], metavar="OVERRIDES",
        help='also with these overrides, such as "preset=fast_sam3d", "ss=fast_sam3d mesh=fast_sam3d" or, as a control,'
        ' "pipeline.ss_steps=10 pipeline.slat_steps=8" or "seed=43"; repeatable',
    )  # fmt: skip
    parser.add_argument("--ss_cfg_strength", type=float, default=None, help="instead of the checkpoint's own")
    parser.add_argument("--slat_cfg_strength", type=float, default=None, help="instead of the checkpoint's own")


def main(args: argparse.Namespace) -> int:
    """Measure and print; 0 even where a bar is missed, which the table shows."""
    from fast_sam3d.config.packaged import resource
    from fast_sam3d.model.pipeline_config import CONFIG_NAME

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
            f"--checkpoint_dir {args.checkpoint_dir} holds no {CONFIG_NAME}: give the folder that train-mini left the"
            " weights in (RUN_DIR/checkpoint), or leave the flag out for the embedded weights"
        )
    checkpoint = args.checkpoint_dir or resource("checkpoints/mini")
    others = [*(stiffness_variants() if args.stiffness else ()), *map(accelerated_variant, args.accelerate)]
    measure(checkpoint, args.objects, args.processes, args.output_dir, others, sampling, args.overwrite)
    return 0


def accelerated_variant(overrides: str) -> Any:
    """The variant with the modules, steps and seed that some overrides, separated by blanks, say.

    Raises:
        ConfigError: they do not compose, or change nothing of these.
    """
    from fast_sam3d.bench.variant import NOISE_SEED, STEPS, variant_of

    variant = variant_of(overrides)
    if variant.config is None and (variant.steps, variant.slat_steps, variant.seed) == (STEPS, STEPS, NOISE_SEED):
        raise ConfigError(
            f"--accelerate {overrides!r} switches nothing on: give a preset or a module, preset=fast_sam3d, or for a"
            " control other steps, pipeline.ss_steps=10, or another seed"
        )
    return variant


def stiffness_variants() -> tuple[Any, ...]:
    """Ways to spend fewer network calls, and the noise floor of another seed."""
    from fast_sam3d.bench.variant import Variant

    def cached(order: int) -> dict[str, Any]:
        predict = {"name": "taylor", "order": order} if order else {"name": "hold"}
        return {
            "ss": {
                "when": {"name": "stride", "stride": 3, "warmup": 2},
                "where": {"name": "all"},
                "predict": {"shape": predict, "layout": predict},
            }
        }

    return (
        Variant(FEW, steps=5),
        Variant("10 steps", steps=10),
        Variant(LINEAR, config=cached(1)),
        Variant(HOLD, config=cached(0)),
        Variant("other seed", seed=43),
        Variant("no pointmap", given_depth=False),
    )


def measure(checkpoint: Path, objects: int, processes: int, output: Path, others: Sequence[Any] = (),
            sampling: Mapping[str, Any] | None = None, overwrite: bool = False) -> dict[str, Any]:  # fmt: skip
    """Evaluate a checkpoint, write `rows.csv` and `summary.json`, print the tables.

    Objects are kept as they are finished; a later start with the same weights, code, variants and sampling goes on.

    Args:
        others: variants that are compared with the plain run. overwrite: begin anew.

    Returns:
        the summary; None stands for a number that is not known.

    Raises:
        CheckpointError: the weights cannot be used. OutputError: the folder cannot be written.
    """
    from fast_sam3d.bench.held_out import FIRST_SEED
    from fast_sam3d.bench.record import Record, code_digest, weights_digest, without_nan, write_rows, write_text
    from fast_sam3d.bench.variant import Variant
    from fast_sam3d.mini.train import evaluate
    from fast_sam3d.model.pipeline import MiniPipeline
    from fast_sam3d.outputs.folder import writable_folder

    writable_folder(output, "--output_dir")  # told now rather than when everything is measured
    MiniPipeline.from_pretrained(checkpoint)  # damaged weights are told here, not by every worker
    job = evaluate.Job(checkpoint, (Variant("25 steps"), *others), sampling or {})
    settings = {
        "checkpoint": weights_digest(job.checkpoint),
        "code": code_digest(),
        "variants": [asdict(variant) for variant in job.variants],
        "sampling": dict(job.sampling),
    }
    seeds = range(FIRST_SEED, FIRST_SEED + objects)
    rows = evaluate.evaluate(job, seeds, processes, kept=Record(output, settings, overwrite))
    write_rows(output / "rows.csv", rows)
    base = [row for row in rows if row["variant"] == job.variants[0].name]
    summary: dict[str, Any] = {
        "objects": objects,
        "overall": evaluate.summarise(base),
        "families": evaluate.by_family(base),
        "variants": {},
    }
    for variant in job.variants[1:]:
        own = [row for row in rows if row["variant"] == variant.name]
        summary["variants"][variant.name] = {**evaluate.summarise(own), "against_base": _paired(own, base)}
    if {FEW, LINEAR, HOLD} <= {variant.name for variant in others}:
        by_name = {variant.name: [row for row in rows if row["variant"] == variant.name] for variant in job.variants}
        summary["stiffness"] = stiffness_checks(by_name, job.variants[0].name)
    summary = without_nan(summary)
    write_text(output / "summary.json", json.dumps(summary, indent=1, allow_nan=False))
    show(summary)
    return summary


COMPARED = ("seconds", "f1@0.01", "f1@0.05", "chamfer", "voxel_iou", "box_iou", "rotation_deg", "translation_error")
LINEAR, HOLD, FEW = "linear, stride 3", "hold, stride 3", "5 steps"
CLEAR = 2.0  # standard errors
CHECKS = {
    "few_steps_hurt": f"{FEW} are worse than 25 against the truth",
    "predictors_differ": "linear and held velocities differ in fidelity, linear minus hold",
}
WIDTH = 170


def stiffness_checks(rows: Mapping[str, Sequence[Mapping[str, Any]]], base: str) -> dict[str, Any]:
    """Whether methods can be told apart on this model, by paired differences.

    Args:
        rows: by variant, the same objects in the same order. base: the variant that fidelity is measured against.

    Returns:
        "few_steps_hurt" and "predictors_differ": {"differences": {metric: (mean, standard error)}, "clear": bool};
        clear are differences of more than two standard errors, of few steps only those for the worse.
    """
    few = _paired(rows[FEW], rows[base], ("f1@0.01", "box_iou", "translation_error", "rotation_deg"))
    worse = {"f1@0.01": -1, "box_iou": -1, "translation_error": 1, "rotation_deg": 1}
    apart = _paired(rows[LINEAR], rows[HOLD], ("base_voxel_iou", "base_f1@0.01", "base_rotation_deg"))
    return {
        "few_steps_hurt": {
            "differences": few,
            "clear": any(worse[name] * mean > CLEAR * error for name, (mean, error) in few.items()),
        },
        "predictors_differ": {
            "differences": apart,
            "clear": any(abs(mean) > CLEAR * error for mean, error in apart.values()),
        },
    }


def _paired(
    rows: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], names: Sequence[str] = COMPARED
) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the difference to the base, object by object; of seconds the median ratio.

    Objects for which either value is not finite are left out.
    """
    from fast_sam3d.metrics import paired_difference, paired_ratio

    pairs = list(zip(rows, base, strict=True))
    result = {}
    if "seconds" in names:
        result["speedup"] = paired_ratio([row["seconds"] for row, _ in pairs], [other["seconds"] for _, other in pairs])
    for name in (name for name in names if name != "seconds"):
        both = [(row[name], other[name]) for row, other in pairs if name in row and name in other]
        mean, error = paired_difference([first for first, _ in both], [second for _, second in both])
        if math.isfinite(mean):
            result[name] = (mean, error)
    return result


def with_error(found: Sequence[float | None], form: str = ".3f") -> str:
    """A number with its standard error (middle, error), if that is known."""
    middle, error = found
    return f"{middle:{form}}" if error is None else f"{middle:{form}} ± {error:{form.removeprefix('+')}}"


def show(summary: Mapping[str, Any]) -> None:
    """Print the tables of a summary."""
    from rich.console import Console
    from rich.table import Table

    # A file or a pipe has no width of its own, and the usual 80 columns would cut the tables' cells.
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
