"""Plots of a bench, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.bench.job import PLACES
from fast_sam3d.bench.suite import OFF, OTHER_SEED, Suite
from fast_sam3d.bench.summary import UNKNOWN, MethodStats, Number, pareto_front
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.folder import writing

PARETO, STAGES, ABLATION, SWEEPS = "pareto.png", "stages.png", "ablation.png", "sweeps.png"
DPI = 110
MARKERS = "osD^v<>pPX*hd8"
GREY = "0.55"
REST = "0.78"
"""Of methods that are not on the Pareto front."""

Panel = tuple[str, str, str]
"""Field of `MethodStats` ("plain" or "gain"), measure, and label of the axis."""
SHAPE: Panel = ("plain", "volume_iou", "shape: vIoU with the unaccelerated result")
LAYOUT: Panel = ("plain", "box_iou", "layout: 3D-IoU with the unaccelerated result")
QUALITY: Panel = ("gain", "f1@0.05", "quality: F1@0.05 with the ground truth, difference to unaccelerated")


def draw_all(folder: Path, found: Mapping[str, MethodStats], suite: Suite, sampler: str = "") -> list[str]:
    """Draw all plots with data. Returns the file names.

    Args:
        sampler: of the runs, for the titles.

    Raises:
        FastSam3dError: matplotlib is not installed.
    """
    drawn = []
    main = [name for name in suite.main if name in found]
    if OFF in found and _panels(found, main):
        drawn.append(pareto(folder / PARETO, found, main, sampler))
    if OFF in found and main:
        drawn.append(stages(folder / STAGES, [OFF, *main], found))
    if OFF in found and suite.ablation:
        drawn.append(ablation(folder / ABLATION, found, suite.ablation))
    if OFF in found and suite.sweeps:
        drawn.append(sweeps(folder / SWEEPS, found, suite))
    return [path.name for path in drawn]


def pareto(path: Path, found: Mapping[str, MethodStats], names: Sequence[str], sampler: str = "") -> Path:
    """Speed against fidelity, one panel per measure; methods on the Pareto front are named, the others are grey."""
    panels = _panels(found, names)
    plot, figure, axes = _figure(1, len(panels), (4.6 * len(panels) + 0.4, 4.6))
    points = {
        panel: {name: (found[name].speedup, getattr(found[name], panel[0]).get(panel[1], UNKNOWN)) for name in names}
        for panel in panels
    }
    fronts = {
        panel: pareto_front({name: (x[0], y[0]) for name, (x, y) in own.items()}) for panel, own in points.items()
    }
    named = [name for name in names if any(name in front for front in fronts.values())]
    colours = plot.get_cmap("tab10")
    for axis, (panel, own) in zip(axes[0], points.items(), strict=True):
        where, measure, label = panel
        for name, (x, y) in own.items():
            on_front = name in fronts[panel]
            number = named.index(name) if on_front else 0
            axis.errorbar(
                x[0], y[0], xerr=_bar(x), yerr=_bar(y), fmt=MARKERS[number % len(MARKERS)] if on_front else ".",
                color=colours(number % 10) if on_front else REST, markersize=6, capsize=2 if on_front else 0,
                linewidth=1, zorder=3 if on_front else 1,
            )  # fmt: skip
        axis.plot(*zip(*((own[name][0][0], own[name][1][0]) for name in fronts[panel]), strict=True), color=GREY,
                  linewidth=1, zorder=2)  # fmt: skip
        _floor(axis, found, where, measure)
        axis.set(xlabel="speed-up of the whole object (median ± s.e.)", ylabel=_wrapped(f"{label}, mean ± s.e."))
        axis.axvline(1.0, color=GREY, linewidth=0.6, zorder=0)
        _stretch(axis, where)
    figure.suptitle(
        f"{f'Sampler: {sampler}. ' if sampler else ''}Named: on the Pareto front (line). Grey: the other methods."
        " Dashed: unaccelerated, another seed.", fontsize=9,
    )  # fmt: skip
    figure.canvas.draw()  # fixes the places for the labels
    for axis, (panel, own) in zip(axes[0], points.items(), strict=True):
        labels = {name: (own[name][0][0], own[name][1][0], colours(named.index(name) % 10)) for name in fronts[panel]}
        _name_points(axis, labels, [(x[0], y[0]) for x, y in own.values()])
    return _save(plot, figure, path)


FINEST = 0.004
"""Differences of fidelity to 1 that the axis still resolves."""
TICKS = {"plain": (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1), "gain": (-0.8, -0.4, -0.2, -0.1, -0.05, 0, 0.05)}


def _stretch(axis: Any, where: str) -> None:
    """Scale the axis so that a method that fails does not squeeze the others: fidelity by its logarithm to 1."""
    import numpy as np

    axis.margins(0.12)
    low, high = axis.get_ylim()
    if where == "plain":
        axis.set_yscale("function", functions=(lambda y: -np.log(np.maximum(1 + FINEST - y, FINEST / 10)),
                                               lambda z: 1 + FINEST - np.exp(-z)))  # fmt: skip
        low, high = max(low, -0.1), 1 + FINEST / 3
    else:
        axis.set_yscale("symlog", linthresh=0.05)
    axis.set_yticks([tick for tick in TICKS[where] if low <= tick <= high], minor=False)
    axis.set_yticks([], minor=True)
    axis.yaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    axis.set_ylim(low, high)


def _name_points(
    axis: Any, labels: Mapping[str, tuple[float, float, Any]], points: Sequence[tuple[float, float]]
) -> None:
    """Write the name beside each point (x, y, colour), where it covers no other name and the fewest points."""
    from matplotlib.transforms import Bbox

    known = [point for point in points if all(map(math.isfinite, point))]
    dots = axis.transData.transform(known) if known else []
    taken: list[Any] = []
    for name, (x, y, colour) in labels.items():
        texts = [
            axis.annotate(name, (x, y), (dx, dy), textcoords="offset points", fontsize=8, color=colour, va="center",
                          ha="left" if dx > 0 else "right" if dx < 0 else "center")
            for dx, dy in ((7, 7), (-7, -7), (7, -7), (-7, 7), (0, 12), (0, -12), (12, 18), (-12, -18), (12, -18))
        ]  # fmt: skip
        boxes = [text.get_window_extent() for text in texts]

        def badness(number: int, boxes: list[Any] = boxes) -> float:
            box, frame = boxes[number], axis.get_window_extent()
            inside = Bbox.intersection(box, frame)
            outside = inside is None or inside.width * inside.height < 0.98 * box.width * box.height
            return 100 * sum(map(box.overlaps, taken)) + 50 * outside + box.count_contains(dots) + 0.1 * number

        best = min(range(len(texts)), key=badness)
        taken.append(boxes[best])
        for number, text in enumerate(texts):
            text.set_in_layout(False)
            if number != best:
                text.remove()


def stages(path: Path, names: Sequence[str], found: Mapping[str, MethodStats]) -> Path:
    """Stacked bars of mean seconds per stage, with the standard error of the total."""
    from fast_sam3d.run.progress import STAGES as LABELS

    shown = [name for name in names if found[name].stages]
    plot, figure, ((axis,),) = _figure(1, 1, (9.5, 1.2 + 0.42 * len(shown)))
    colours, ends = plot.get_cmap("tab10"), [0.0] * len(shown)
    longest = max((found[name].seconds[0] for name in shown), default=1.0)
    rest = [0.0] * len(shown)  # stages below one percent
    bars = []
    for stage in PLACES:
        widths = [found[name].stages.get(stage, (0.0, 0.0))[0] for name in shown]
        if stage == "other" or max(widths, default=0.0) < 0.01 * longest:
            rest = [first + second for first, second in zip(rest, widths, strict=True)]
        else:
            bars.append((LABELS.get(stage, stage), widths))
    for number, (label, widths) in enumerate([*bars, ("the rest", rest)]):
        colour = GREY if number == len(bars) else colours(number % 7)
        axis.barh(shown, widths, left=ends, height=0.7, color=colour, label=label)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, name in enumerate(shown):
        own = found[name]
        axis.errorbar(ends[place], place, xerr=_bar(own.seconds), color="0.2", capsize=2, linewidth=1)
        faster = "" if name == OFF else f", {own.speedup[0]:.2f} ± {own.speedup[1]:.2f}x"
        text = f"{own.seconds[0]:.2f} ± {own.seconds[1]:.2f} s{faster}"
        axis.text(ends[place] + (_bar(own.seconds) or 0.0) + 0.01 * longest, place, text, va="center", fontsize=8)
    axis.invert_yaxis()
    reach = [end + (_bar(found[name].seconds) or 0.0) for name, end in zip(shown, ends, strict=True)]
    axis.set_xlim(0, 1.35 * max(reach, default=1.0))
    axis.set(xlabel="seconds per object, mean ± s.e. of the total; speed-up: median of pairs ± s.e.")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return _save(plot, figure, path)


def ablation(path: Path, found: Mapping[str, MethodStats], modules: Mapping[str, str]) -> Path:
    """Modules alone and together: speed and fidelity."""
    labels = {label: name for label, name in modules.items() if name in found}
    panels = [("speedup", "", "speed-up, median"), *_panels(found, list(labels.values()))]
    plot, figure, axes = _figure(1, len(panels), (3.6 * len(panels), 1.4 + 0.42 * len(labels)))
    for number, (axis, (where, measure, label)) in enumerate(zip(axes[0], panels, strict=True)):
        numbers = [
            found[name].speedup if where == "speedup" else getattr(found[name], where).get(measure, UNKNOWN)
            for name in labels.values()
        ]
        axis.barh(list(labels), [n[0] for n in numbers], xerr=[_bar(n) or 0 for n in numbers], height=0.6,
                  color="tab:blue" if where == "speedup" else "tab:green", capsize=2)  # fmt: skip
        for place, (middle, error) in enumerate(numbers):
            end = max(middle, 0.0) + (error if math.isfinite(error) else 0.0)
            axis.text(end, place, f"  {middle:.3f} ± {error:.3f}", va="center", fontsize=8)
        axis.set_xlim(right=axis.get_xlim()[1] + 0.45 * (axis.get_xlim()[1] - axis.get_xlim()[0]))
        if where == "speedup":
            axis.axvline(1.0, color=GREY, linewidth=0.8)
        else:
            _floor(axis, found, where, measure, upright=True)
        axis.invert_yaxis()
        axis.set_xlabel(_wrapped(f"{label} ± s.e."), fontsize=8)
        if number:
            axis.tick_params(labelleft=False)
    legend = axes[0][1].get_legend_handles_labels() if len(panels) > 1 else ([], [])
    if legend[0]:
        figure.legend(*legend, loc="outside upper right", fontsize=8, frameon=False)
    return _save(plot, figure, path)


def sweeps(path: Path, found: Mapping[str, MethodStats], suite: Suite) -> Path:
    """One column per sweep: speed above, fidelity below."""
    names = [name for sweep in suite.sweeps for name in sweep.points.values() if name in found]
    panels = [("speedup", "", "speed-up"), *_panels(found, names)]
    plot, figure, axes = _figure(len(panels), len(suite.sweeps), (2.9 * len(suite.sweeps), 2.3 * len(panels)))
    for column, sweep in enumerate(suite.sweeps):
        points = [(value, found[name]) for value, name in sweep.points.items() if name in found]
        for row, (where, measure, label) in enumerate(panels):
            axis = axes[row][column]
            numbers = [
                own.speedup if where == "speedup" else getattr(own, where).get(measure, UNKNOWN) for _, own in points
            ]
            axis.errorbar(
                [value for value, _ in points], [n[0] for n in numbers], yerr=[_bar(n) or 0 for n in numbers],
                marker="o", markersize=4, capsize=2, color="tab:blue" if row == 0 else "tab:green",
            )  # fmt: skip
            if row:
                _floor(axis, found, where, measure)
            if column == 0:
                axis.set_ylabel(_wrapped(label), fontsize=8)
            if row == 0:
                axis.set_title(sweep.title, fontsize=10)
            if row == len(panels) - 1:
                axis.set_xlabel(sweep.key, fontsize=8)
    return _save(plot, figure, path)


def _panels(found: Mapping[str, MethodStats], names: Sequence[str]) -> list[Panel]:
    """Panels with data."""
    return [
        (where, measure, label)
        for where, measure, label in (SHAPE, LAYOUT, QUALITY)
        if any(measure in getattr(found[name], where) for name in names)
    ]


def _floor(axis: Any, found: Mapping[str, MethodStats], where: str, measure: str, upright: bool = False) -> None:
    """Line and error band of the unaccelerated result with another seed; a line at 0 for differences."""
    line, band = (axis.axvline, axis.axvspan) if upright else (axis.axhline, axis.axhspan)
    if where == "gain":
        line(0.0, color=GREY, linewidth=0.6, zorder=0)
    middle, error = getattr(found[OTHER_SEED], where).get(measure, UNKNOWN) if OTHER_SEED in found else UNKNOWN
    if math.isfinite(middle):
        line(middle, color="tab:red", linewidth=1, linestyle="--", zorder=0, label="another seed, unaccelerated")
    if math.isfinite(middle) and math.isfinite(error):
        band(middle - error, middle + error, color="tab:red", alpha=0.12, linewidth=0, zorder=0)


def _wrapped(label: str) -> str:
    return label.replace(": ", ":\n", 1).replace(", difference", ",\ndifference")


def _bar(number: Number) -> float | None:
    return number[1] if math.isfinite(number[1]) else None


def pyplot(needs: str) -> Any:
    """matplotlib's pyplot, which draws into files.

    Args:
        needs: the beginning of the message, such as "the picture needs".

    Raises:
        FastSam3dError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise FastSam3dError(f"{needs} matplotlib: pip install fast-sam3d[bench]") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any, Any]:
    """pyplot, a figure, and its axes as lists of lists."""
    plot = pyplot("the plots need")
    figure, axes = plot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return plot, figure, axes.tolist()


def _save(plot: Any, figure: Any, path: Path) -> Path:
    with writing(path), atomic_write(path) as file:
        figure.savefig(file, dpi=DPI, format="png")
    plot.close(figure)
    return path
