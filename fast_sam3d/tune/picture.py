"""Draws the check: voxel IoU and pose drift against network calls, schedules beside fewer steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fast_sam3d.bench.plots import pyplot
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.folder import writing
from fast_sam3d.tune.check import PATH, STEPS, summary
from fast_sam3d.tune.job import Result

DPI = 110
LINES = {PATH: ("measured schedule", "tab:green", "o"), STEPS: ("fewer steps", "0.55", "s")}
PANELS = (
    ("voxel_iou", "ss_calls", "voxel IoU to the baseline"),
    ("translation_error", "ss_calls", "translation drift,\nin sizes of the object"),
    ("latent_error", "slat_calls", "relative error of the\nstructured latent"),
)
CALLS = {"ss_calls": "network calls of the sparse structure", "slat_calls": "network calls of the structured latent"}


def draw(path: Path, result: Result, title: str) -> None:
    """Write the picture.

    Raises:
        FastSam3dError: matplotlib is not installed.
    """
    plot, rows = pyplot("the picture needs"), summary(result.rows)
    figure, axes = plot.subplots(1, len(PANELS), figsize=(11.5, 3.6), layout="constrained")
    for axis, (measure, calls, label) in zip(axes, PANELS, strict=True):
        for kind, (name, colour, marker) in LINES.items():
            own = sorted(_points(rows, kind, measure, calls))
            if own:
                x, y, spread = zip(*own, strict=True)
                bars = [value if math.isfinite(value) else 0.0 for value in spread]
                axis.errorbar(x, y, yerr=bars, color=colour, marker=marker, capsize=2, linewidth=1.2, label=name)
        chosen = [row for row in rows if (row["kind"], row["level"]) == (PATH, result.chosen) and measure in row]
        for row in chosen:
            axis.annotate("default", (row[calls][0], row[measure][0]), (6, -12), textcoords="offset points", fontsize=8)
        axis.set(xlabel=CALLS[calls], ylabel=label, yscale="linear" if measure == "voxel_iou" else "log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    with writing(path), atomic_write(path) as file:
        figure.savefig(file, dpi=DPI, format="png")
    plot.close(figure)


def _points(rows: list[dict[str, Any]], kind: str, measure: str, calls: str) -> list[tuple[float, float, float]]:
    """(calls, mean, standard error) of each level."""
    return [(row[calls][0], *row[measure]) for row in rows if row["kind"] == kind and measure in row and calls in row]
