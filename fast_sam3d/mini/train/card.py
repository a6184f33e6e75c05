"""The model card of the embedded weights, generated from their training run."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fast_sam3d.documents import read_json
from fast_sam3d.mini.data.families import FAMILIES
from fast_sam3d.mini.data.shards import HELD_OUT_SEED
from fast_sam3d.mini.train.run import TrainingRun
from fast_sam3d.mini.train.stages import STAGES
from fast_sam3d.model.networks import build_networks, weight_parts

NAME = "MODEL_CARD.md"
CURVES = "curves.png"

BARS: dict[str, tuple[float, bool]] = {
    "f1@0.05": (0.92, True),
    "f1@0.01": (0.22, True),
    "chamfer": (0.022, False),
    "voxel_iou": (0.38, True),
    "box_iou": (0.78, True),
    "rotation_deg": (12.0, False),
}
"""Threshold of a metric that the embedded model must reach, and whether greater is better."""


def write(run: TrainingRun, checkpoint: Path, summary: Mapping[str, Any]) -> Path:
    """Write the card, the curves and `evaluation.json` beside the weights.

    Args:
        run: its folder has the curves and `quality.json`.
        checkpoint: folder of the weights.
        summary: of `evaluate-mini`; see `bench.evaluate_mini.measure`.

    Returns:
        path of the card.
    """
    (checkpoint / "evaluation.json").write_text(json.dumps(summary, indent=1))
    plot_curves(run, checkpoint / CURVES)
    path = checkpoint / NAME
    path.write_text("\n".join(_lines(run, summary)) + "\n")
    return path


def _lines(run: TrainingRun, summary: Mapping[str, Any]) -> list[str]:
    recipe = run.recipe
    models, embedders = build_networks(recipe.pipeline)
    parts = {
        name: sum(p.numel() for p in module.parameters()) for name, module in weight_parts(models, embedders).items()
    }
    quality = read_json(run.folder / "quality.json")
    return [
        "# The embedded model",
        "",
        "A small model with the structure of SAM 3D Objects, trained from scratch on procedural objects by",
        "`fast-sam3d train-mini`, with which the library can be run, tested and measured on any machine.",
        "It is not SAM 3D Objects and contains none of its code or weights.",
        "",
        "## Data",
        "",
        f"{recipe.objects:,} objects of {len(FAMILIES)} families ({', '.join(FAMILIES)}), {recipe.views} crops of 64",
        "pixels each: random camera from 12° below to 55° above, light, colours, stripes on a quarter, a floor on",
        "70 %, an occluder on up to 40 %, and on 20 % a guess from the silhouette instead of depth. Seeds from",
        f"{HELD_OUT_SEED:,} on are held out.",
        "",
        "## Sizes",
        "",
        *_table(["part", "parameters"], [[name, f"{count:,}"] for name, count in parts.items()]),
        *["", f"Together {sum(parts.values()):,} parameters, stored as float16.", ""],
        "## Training",
        "",
        *_table(["stage", "updates", "batch", "peak rate", "hours"], [_stage(run, name) for name in STAGES]),
        "",
        f"Seed {run.seed}; AdamW, bfloat16 autocast, averaged weights. Hardware: {_hardware(run)}.",
        "",
        f"![loss curves]({CURVES})",
        "",
        f"Autoencoders on held-out objects: occupancy IoU {quality['ss_vae_iou']:.3f}; distance error near the surface",
        f"{quality['distance_mae_voxels']:.3f} voxels, colour error {quality['colour_mae']:.3f} of the range 0..1.",
        "",
        "## Quality",
        "",
        f"{summary['objects']} held-out objects, end to end through `run`, 25 + 25 steps, not accelerated",
        "(`fast-sam3d evaluate-mini`), without pose refinement. Lengths in the unit cube of the ground truth's box,",
        "10,000 surface points each; the rotation error is the median, modulo the object's symmetry, with its",
        "standard error from a bootstrap.",
        "",
        *_table(["metric", "mean ± standard error", "target"], _overall(summary["overall"])),
        "",
        *_table(["family", *BARS], _families(summary["families"])),
        "",
        "## Limitations",
        "",
        "- Anything but the families above is out of distribution: real photographs, people, plants, cloth, text.",
        "- Detail below 1/32 of the object's size is guessed; thinner parts may be missing.",
        "- Without a pointmap the object's size and distance are guesses.",
        "- Colours are albedo per voxel: no texture, no gloss, no transparency.",
        "- The step-distillation flags of the stock pipeline are accepted, but the weights were not distilled.",
        "- Its speed and quality compare methods on its own dynamics and do not predict those of the real model.",
        "- How methods rank depends on the sampler: `fast-sam3d bench` takes the published settings, not its own.",
    ]


def with_error(found: Sequence[float | None], form: str = ".3f") -> str:
    """A mean or median with its standard error, if known, as text."""
    middle, error = found
    return f"{middle:{form}}" if error is None else f"{middle:{form}} ± {error:{form.removeprefix('+')}}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def _stage(run: TrainingRun, name: str) -> list[str]:
    schedule = getattr(run.recipe, name)
    rows = read_curve(run.folder / f"{name}.csv")
    hours = previous = 0.0
    for row in rows:
        hours += row["seconds_per_step"] * (row["step"] - previous) / 3600
        previous = row["step"]
    return [name, f"{int(previous):,}", str(schedule.batch), f"{schedule.rate:g}", f"{hours:.2f}"]


def _hardware(run: TrainingRun) -> str:
    if run.device.type == "cuda":
        return torch.cuda.get_device_name(run.device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{torch.get_num_threads()} threads of a CPU ({model})"


def _overall(overall: Mapping[str, Sequence[float]]) -> list[list[str]]:
    rows = []
    for name, found in overall.items():
        if name.endswith("seconds"):
            continue  # depends on the machine, not on the weights
        bar = f"{'≥' if BARS[name][1] else '≤'} {BARS[name][0]}" if name in BARS else ""
        rows.append([name, with_error(found), bar])
    return rows


def _families(families: Mapping[str, Mapping[str, Sequence[float]]]) -> list[list[str]]:
    return [
        [family, *(f"{scores[name][0]:.3f}" if name in scores else "" for name in BARS)]
        for family, scores in families.items()
    ]


def read_curve(path: Path) -> list[dict[str, float]]:
    """Rows of a stage's CSV file."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def plot_curves(run: TrainingRun, path: Path) -> None:
    """Plot the losses of every stage over its updates, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(STAGES), figsize=(4 * len(STAGES), 3.2), constrained_layout=True)
    for axis, stage in zip(axes, STAGES, strict=True):
        rows = read_curve(run.folder / f"{stage}.csv")
        for name in rows[0]:
            if name not in ("step", "seconds_per_step"):
                axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
        axis.set(title=stage, xlabel="update", yscale="log")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
