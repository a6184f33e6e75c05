"""Pictures and tables of an evaluation of schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.bench.plots import pyplot
from fast_sam3d.bench.summary import pareto_front

__all__ = ["draw_all"]

PICTURES = {"ss": "schedules-structure.png", "slat": "schedules-latent.png"}
GREY, CALLS = "0.7", (9, 30)
LINES = {"path": "tab:red", "robust path": "tab:orange", "fewer steps": "tab:blue"}
LABELS = {"path": "path, calibrated", "robust path": "path for all samplers", "fewer steps": "fewer steps"}
AT = (30, 26, 22, 18, 15, 11, 9)
OWN = ("default", "fast")
"""Presets that are paths themselves; the methods of the same settings are left out."""

Point = tuple[float, float]


def draw_all(results: Mapping[str, Any], folder: Path) -> str:
    """Draw the pictures, and return the tables as Markdown.

    Args:
        results: of `evaluate`.
        folder: of the pictures.
    """
    plot = pyplot("the pictures need")
    structure = [
        ("voxel_iou", "voxel IoU with the baseline", True),
        ("translation", "drift of translation, object sizes", False),
        ("rotation_deg", "drift of rotation, degrees (median)", False),
    ]
    figure, axes = plot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, (score, label, higher) in zip(axes, structure, strict=True):
        _panel(axis, _rows(results, "ss", "published"), score, higher)
        axis.set(xlabel="network calls, of 44", ylabel=label)
        axis.set_yscale(
            "log" if not higher else "function", **({} if not higher else {"functions": (_stretch, _shrink)})
        )
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(folder / PICTURES["ss"], dpi=110)
    plot.close(figure)
    figure, axis = plot.subplots(figsize=(6.5, 4.6), layout="constrained")
    _panel(axis, _rows(results, "slat", ""), "latent_error", False)
    axis.set(xlabel="network calls, of 38", ylabel="relative error of the latent", yscale="log")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(folder / PICTURES["slat"], dpi=110)
    plot.close(figure)
    return "\n\n".join(_tables(results))


def _stretch(values: Any) -> Any:
    import numpy as np

    return -np.log10(np.clip(1.002 - np.asarray(values), 1e-4, None))


def _shrink(values: Any) -> Any:
    import numpy as np

    return 1.002 - 10.0 ** -np.asarray(values)


def _panel(axis: Any, rows: Sequence[Mapping[str, Any]], score: str, higher: bool) -> None:
    """Lines of paths and fewer steps; methods in grey, those on the front with their names."""
    inside = [row for row in rows if CALLS[0] - 5 <= row["calls"] <= CALLS[1] + 1 and score in row["scores"]]
    for kind, colour in LINES.items():
        line = sorted((row["calls"], *row["scores"][score]) for row in inside if row["kind"] == kind)
        if line:
            x, y, error = zip(*line, strict=True)
            axis.errorbar(x, y, error, color=colour, marker="o", markersize=3.5, linewidth=1.2, label=LABELS[kind])
    others = {row["name"]: row for row in inside if row["kind"] in ("method", "preset") and _other(row)}
    sign = 1 if higher else -1
    points = {
        row["key"]: (-row["calls"], sign * row["scores"][score][0]) for row in inside if row["kind"] != "baseline"
    }
    front = set(pareto_front(points))
    for name, row in others.items():
        ahead = row["key"] in front
        x, y = row["calls"], row["scores"][score][0]
        axis.plot(x, y, ".", color="black" if ahead else GREY, markersize=6, zorder=3 if ahead else 1)
        if ahead:
            axis.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    for row in inside:
        if row["kind"] == "preset" and row["name"] in OWN:
            place = (row["calls"], row["scores"][score][0])
            axis.plot(*place, "*", color="black", markersize=9, zorder=4)
            axis.annotate(row["name"], place, xytext=(6, -12), textcoords="offset points", fontsize=8)
    values = [row["scores"][score][0] for row in inside if row["scores"][score][0] > 0]
    if values and higher:
        axis.set_ylim(max(min(values), 0.6), 1.0)
    axis.spines[["top", "right"]].set_visible(False)


def _tables(results: Mapping[str, Any]) -> Iterator[str]:
    for sampler in dict.fromkeys(row["sampler"] for row in results["rows"] if row["stage"] == "ss"):
        rows = _rows(results, "ss", sampler)
        yield f"Sparse structure, `{sampler}`, voxel IoU with the baseline:"
        yield _table(rows, "voxel_iou", True)
        for score in ("translation", "rotation_deg", "scale", "box_iou"):
            yield f"`{sampler}`, {score}:"
            yield _table(rows, score, True, by="voxel_iou")
    rows = _rows(results, "slat", "")
    if rows:
        yield "Structured latent, relative error of the final latent:"
        yield _table(rows, "latent_error", False)
    presets = [row for row in results["rows"] if row["kind"] == "preset"]
    yield "Presets:"
    yield _markdown(
        ("stage", "sampler", "preset", "calls", "score", "translation", "rotation", "scale", "Δ box IoU"),
        [
            (
                row["stage"], row["sampler"], row["name"], f"{row['calls']:g}",
                _cell(row["scores"].get("voxel_iou") or row["scores"]["latent_error"]),
                *(_cell(row["scores"].get(name)) for name in ("translation", "rotation_deg", "scale", "box_iou")),
            )
            for row in presets
        ],
    )  # fmt: skip


def _table(rows: Sequence[Mapping[str, Any]], score: str, higher: bool, by: str | None = None) -> str:
    """One line for each number of calls: the best of each kind with at most so many.

    Args:
        by: the score that the best is chosen by; None: `score`.
    """
    kinds = ("fewer steps", "robust path", "path", "method")
    lines = []

    def rank(row: Mapping[str, Any]) -> float:
        value: float = row["scores"][by or score][0]
        return -value if higher else value

    for calls in AT:
        cells = [str(calls)]
        for kind in kinds:
            fitting = [row for row in rows if row["kind"] == kind and _other(row) and row["calls"] <= calls + 1e-6]
            best = min(fitting, key=rank, default=None)
            cell = "–" if best is None else _cell(best["scores"][score])
            cells.append(cell if best is None or kind != "method" else f"{cell} {best['name']}, {best['calls']:g}")
        lines.append(cells)
    return _markdown(
        ("calls", "fewer steps", "path for all samplers", "calibrated path", "best other method, and its calls"), lines
    )


def _other(row: Mapping[str, Any]) -> bool:
    """False for presets and methods that are paths."""
    return row["kind"] not in ("method", "preset") or not (row["name"] in OWN or row["name"].startswith("path"))


def _cell(pair: Any) -> str:
    return "" if pair is None or pair[0] is None else f"{pair[0]:.4f} ± {pair[1] or 0:.4f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _rows(results: Mapping[str, Any], stage: str, sampler: str) -> list[Mapping[str, Any]]:
    return [row for row in results["rows"] if row["stage"] == stage and row["sampler"] == sampler]
