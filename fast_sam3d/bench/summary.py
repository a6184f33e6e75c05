"""Statistics and tables of a bench.

Seeds of one object are averaged first; standard errors are over objects. Speed-up is the median of the ratio to the
unaccelerated run of the same object and seed; differences are paired in the same way. Standard errors of medians are
bootstrapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fast_sam3d.bench.job import PLACES
from fast_sam3d.bench.samplers import PUBLISHED
from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.metrics import BASELINE, TRUTH, by_group, mean_and_error, median_and_error

Number = tuple[float, float]
"""Mean or median, and its standard error; NaN if unknown."""
UNKNOWN: Number = (math.nan, math.nan)
MEDIAN_MEASURES = ("rotation_deg",)
"""Measures summarised by their median, because a few objects are rotated by 180 degrees."""


@dataclass(frozen=True)
class MethodStats:
    """Statistics of one method.

    Args:
        runs: number of runs. failed: of them.
        speedup: over the unaccelerated run. cpu_speedup: the same in processor time.
        seconds: mean per object. cpu_seconds: of the processor, all threads. stages: mean seconds per stage.
        network_calls: mean per object.
        operations: relative to the unaccelerated run.
        peak_bytes: of memory, above that in use before the run.
        plain: fidelity: measures against the unaccelerated result of the same seed; empty for that itself.
        truth: quality: measures against the ground truth; empty without one.
        gain: paired difference of quality to the unaccelerated run.
    """

    name: str
    runs: int
    failed: int
    speedup: Number
    seconds: Number
    stages: Mapping[str, Number]
    network_calls: Number
    operations: Number
    peak_bytes: Number
    cpu_speedup: Number = UNKNOWN
    cpu_seconds: Number = UNKNOWN
    plain: Mapping[str, Number] = field(default_factory=dict)
    truth: Mapping[str, Number] = field(default_factory=dict)
    gain: Mapping[str, Number] = field(default_factory=dict)


def standings(rows: Sequence[Mapping[str, Any]]) -> dict[str, MethodStats]:
    """Statistics by method, in order of appearance; empty without rows."""
    methods = dict.fromkeys(row["method"] for row in rows)
    by_method = {name: [row for row in rows if row["method"] == name] for name in methods}
    base = {(row["object"], row["seed"]): row for row in by_method.get(OFF, [])}
    return {name: _method_stats(name, own, base) for name, own in by_method.items()}


def by_sampler(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, MethodStats]]:
    """`standings` of each sampler, each method against the baseline of the same sampler; the headline's first.

    The headline sampler is the published one where it was measured, else the first.
    """
    names = sorted(dict.fromkeys(row["sampler"] for row in rows), key=lambda name: name != PUBLISHED.name)
    return {name: standings([row for row in rows if row["sampler"] == name]) for name in names}


def _method_stats(
    name: str, rows: Sequence[Mapping[str, Any]], base: Mapping[tuple[str, int], Mapping[str, Any]]
) -> MethodStats:
    groups = [row["object"] for row in rows]
    others = [base.get((row["object"], row["seed"]), {}) for row in rows]

    def mean(column: str) -> Number:
        return mean_and_error(by_group([row.get(column, math.nan) for row in rows], groups))

    def ratios(column: str, faster: bool) -> list[float]:
        pairs = [
            (row.get(column, math.nan), other.get(column, math.nan)) for row, other in zip(rows, others, strict=True)
        ]
        if faster:
            pairs = [(other, own) for own, other in pairs]
        return [first / second if second > 0 else math.nan for first, second in pairs]

    def middle(column: str) -> Number:
        values = by_group([row.get(column, math.nan) for row in rows], groups)
        return median_and_error(values) if column.split("_", 1)[1] in MEDIAN_MEASURES else mean_and_error(values)

    def gain(column: str) -> Number:
        pairs = [
            row.get(column, math.nan) - other.get(column, math.nan) for row, other in zip(rows, others, strict=True)
        ]
        return mean_and_error(by_group(pairs, groups))

    columns = list(dict.fromkeys(column for row in rows for column in row))
    scores = {
        against: [column for column in columns if column.startswith(f"{against}_")] for against in (BASELINE, TRUTH)
    }
    return MethodStats(
        name=name,
        runs=len(rows),
        failed=sum(bool(row["error"]) for row in rows),
        speedup=median_and_error(by_group(ratios("seconds", faster=True), groups)),
        seconds=mean("seconds"),
        stages={stage: known for stage in PLACES if math.isfinite((known := mean(f"{stage}_seconds"))[0])},
        network_calls=mean("network_calls"),
        operations=mean_and_error(by_group(ratios("operations", faster=False), groups)),
        peak_bytes=mean("peak_bytes"),
        cpu_speedup=median_and_error(by_group(ratios("cpu_seconds", faster=True), groups)),
        cpu_seconds=mean("cpu_seconds"),
        plain={column.split("_", 1)[1]: middle(column) for column in scores[BASELINE]},
        truth={column.split("_", 1)[1]: middle(column) for column in scores[TRUTH]},
        gain={} if name == OFF else {column.split("_", 1)[1]: gain(column) for column in scores[TRUTH]},
    )


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the finite points (x, y) that no other point dominates, sorted by x; ties are kept."""
    known = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    front = [
        name
        for name, (x, y) in known.items()
        if not any((a >= x and b >= y) and (a > x or b > y) for a, b in known.values())
    ]
    return sorted(front, key=lambda name: known[name])


# ------------------------------------------------------------------------------------------------------- tables

FIDELITY = (
    "volume_iou", "voxel_iou", "f1@0.05", "f1@0.01", "box_iou", "rotation_deg", "translation_error", "add_s", "psnr",
    "ssim",
)  # fmt: skip
QUALITY = ("f1@0.05", "f1@0.01", "chamfer", "volume_iou", "box_iou", "rotation_deg", "translation_error", "add_s")
DIGITS = {"rotation_deg": 2, "psnr": 1, "chamfer": 4, "translation_error": 4}
LESS_IS_BETTER = (
    "chamfer",
    "chamfer_squared",
    "rotation_deg",
    "translation_error",
    "scale_error",
    "add_s",
    "latent_error",
)


def with_error(number: Number | None, digits: int = 3, sign: bool = False, unit: str = "") -> str:
    """Value and standard error, such as "2.85 ± 0.04x"; empty if unknown."""
    if number is None or not math.isfinite(number[0]):
        return ""
    plus = "+" if sign else ""
    error = f" ± {number[1]:.{digits}f}" if math.isfinite(number[1]) else ""
    return f"{number[0]:{plus}.{digits}f}{error}{unit}"


def markdown(
    samplers: Mapping[str, Mapping[str, MethodStats]],
    methods: Mapping[str, str],
    main: Sequence[str],
    about: Sequence[str],
) -> str:
    """All tables: those of the first sampler, then a comparison of all samplers.

    Args:
        samplers: see `by_sampler`.
        methods: name to overrides.
        main: methods of the main table; those of sweeps have a separate one.
        about: lines that describe the runs.
    """
    first, found = next(iter(samplers.items()))
    listed = [name for name in (OFF, OTHER_SEED, *main) if name in found]
    rest = [name for name in found if name not in listed]
    parts = [
        "\n".join(about),
        f"### Sampler: {first}",
        _speed(found, methods, listed),
        _fidelity(found, [n for n in listed if n != OFF]),
    ]
    if any(found[name].truth for name in listed):
        parts.append(_quality(found, listed))
    else:
        parts.append("Without ground truth only the fidelity to the unaccelerated result is measured.")
    if rest:
        parts.append("### Sweeps\n\n" + _speed(found, methods, rest) + "\n\n" + _fidelity(found, rest))
    if len(samplers) > 1:
        parts.append(_side_by_side(samplers, listed))
    return "\n\n".join(parts) + "\n"


def _speed(found: Mapping[str, MethodStats], methods: Mapping[str, str], names: Sequence[str]) -> str:
    failures = any(found[name].failed for name in names)
    head = [
        "method",
        "faster",
        "seconds",
        "faster, processor time",
        "processor seconds",
        "network calls",
        "operations",
        "peak memory",
        "overrides",
    ]
    head += ["failed runs"] * failures
    lines = []
    for name in names:
        own = found[name]
        memory = tuple(value / 2**20 for value in own.peak_bytes)
        cells = [
            name, with_error(own.speedup, 2, unit="x"), with_error(own.seconds, 2),
            with_error(own.cpu_speedup, 2, unit="x"), with_error(own.cpu_seconds, 2), with_error(own.network_calls, 1),
            with_error((100 * own.operations[0], 100 * own.operations[1]), 1, unit=" %"),
            with_error((memory[0], memory[1]), 0, unit=" MiB"), f"`{methods[name]}`" if name in methods else "",
        ]  # fmt: skip
        lines.append(cells + [f"{own.failed} of {own.runs}"] * failures)
    return _table(head, lines)


def _fidelity(found: Mapping[str, MethodStats], names: Sequence[str]) -> str:
    shown = [measure for measure in FIDELITY if any(measure in found[name].plain for name in names)]
    lines = [
        [name + " (noise floor)" * (name == OTHER_SEED)]
        + [with_error(found[name].plain.get(measure), DIGITS.get(measure, 3)) for measure in shown]
        for name in names
    ]
    title = "Against the unaccelerated result of the same seed (the noise floor: unaccelerated, another seed):\n\n"
    return title + _table(["method", *map(_arrow, shown)], lines)


def _quality(found: Mapping[str, MethodStats], names: Sequence[str]) -> str:
    shown = [measure for measure in QUALITY if any(measure in found[name].truth for name in names)]
    lines = []
    for name in names:
        own = found[name]
        values = own.truth if name == OFF else own.gain
        lines.append(
            [name, *(with_error(values.get(measure), DIGITS.get(measure, 3), sign=name != OFF) for measure in shown)]
        )
    title = f"Against the ground truth: of `{OFF}` the value, of the others the paired difference to it:\n\n"
    return title + _table(["method", *map(_arrow, shown)], lines)


SIDE_BY_SIDE = (
    ("faster (clock)", "speedup", ""), ("network calls", "network_calls", ""),
    ("voxel_iou with the unaccelerated result", "plain", "voxel_iou"),
    ("box_iou with the unaccelerated result", "plain", "box_iou"),
    ("translation_error to the unaccelerated result", "plain", "translation_error"),
    ("f1@0.05 with the ground truth, difference to unaccelerated", "gain", "f1@0.05"),
    ("box_iou with the ground truth, difference to unaccelerated", "gain", "box_iou"),
)  # fmt: skip
"""Tables of the samplers: title, and field and measure of `MethodStats`."""


def _side_by_side(samplers: Mapping[str, Mapping[str, MethodStats]], names: Sequence[str]) -> str:
    tables = []
    for title, where, measure in SIDE_BY_SIDE:
        lines = []
        for name in names:
            values = [getattr(found[name], where) if name in found else {} for found in samplers.values()]
            numbers = [value.get(measure) for value in values] if measure else values
            digits = DIGITS.get(measure, 3) if measure else 2 if where == "speedup" else 1
            lines.append([name, *(with_error(n or None, digits, where == "gain") for n in numbers)])
        if any(cell for _, *cells in lines for cell in cells):
            tables.append(f"{title}:\n\n" + _table(["method", *samplers], [line for line in lines if any(line[1:])]))
    head = "### Samplers side by side\n\nEach method against the unaccelerated run with the same sampler."
    return "\n\n".join([head, *tables])


def _arrow(measure: str) -> str:
    return f"{measure} {'↓' if measure in LESS_IS_BETTER else '↑'}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
