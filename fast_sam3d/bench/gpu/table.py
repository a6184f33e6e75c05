"""The table of a measurement, from its JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fast_sam3d.documents import read_json
from fast_sam3d.errors import FastSam3dError

HEADER: Final = (
    "networks", "voxels", "variant", "embed", "SS", "SLaT", "mesh", "gaussians", "total", "speed-up", "to stock",
    "peak", "calls", "rounds",
)  # fmt: skip
STAGES: Final = ("condition", "ss", "slat", "mesh", "gaussian")
COMPARED: Final = STAGES[1:]
"""With the stock classes: their embedders may be missing."""
OFF: Final = "off"


def read(path: Path) -> dict[str, Any]:
    """A measurement.

    Raises:
        FastSam3dError: not one.
    """
    try:
        results: dict[str, Any] = read_json(path, error=FastSam3dError, advice="give a file that measure-gpu wrote")
        if results["format"] != 1 or not isinstance(results["cells"], list):
            raise ValueError("not of format 1")
        markdown(results)  # needs every part of it
    except FastSam3dError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise FastSam3dError(f"{path} is not a result of measure-gpu ({error}): give its JSON file") from error
    return results


def rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each kind of networks, size and variant: median seconds, GB, network calls.

    The time of the sparse structure, which is measured once, is part of the row of every size.
    """
    structures = {_kind(cell): cell for cell in results["cells"] if cell["voxels"] is None}
    objects = [cell for cell in results["cells"] if cell["voxels"] is not None]
    whole = [[structures[_kind(cell)]] * (_kind(cell) in structures) + [cell] for cell in objects]
    whole += [[structures[kind]] for kind in sorted(structures.keys() - set(map(_kind, objects)))]
    stock = {
        cells[-1]["voxels"]: {stage: statistics.median(times) for stage, times in _seconds(cells, OFF).items() if times}
        for cells in whole
        if cells[0]["stock"] and cells[0]["precision"] == "published"
    }
    return [
        _row(cells, way["name"], stock.get(cells[-1]["voxels"], {})) for cells in whole for way in cells[-1]["variants"]
    ]


def markdown(results: Mapping[str, Any], short: bool = False) -> str:
    """The table and the facts that it needs, as Markdown.

    Args:
        short: only the first networks and size.
    """
    found, (about, *others) = rows(results), notes(results)
    if short:
        found, others = [row for row in found if row[:2] == found[0][:2]], []
    lines = ["| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *found)]
    return "\n\n".join(["\n".join(lines), about, *(f"- {line}" for line in others)])


def notes(results: Mapping[str, Any]) -> Iterator[str]:
    """Sentences below the table."""
    machine = results["machine"]
    driver = f", driver {machine['driver']}" if machine.get("driver") else ""
    cuda = f", CUDA {machine['cuda']}{driver}" if machine.get("device") == "cuda" else f", {machine['processor']}"
    size, steps = "tiny" if results["small"] else "full-size", results["steps"]
    yield (
        f"{machine['card']}, torch {machine['torch']}{cuda}; {size} networks with random weights,"
        f" {steps} + {steps} steps, median seconds; peak in GB, weights of the measured networks included."
    )
    for cell in results["cells"]:
        for row in cell["variants"]:
            if row.get("error") or row.get("finite") is False:
                yield f"{cell['label']}, {row['name']}: {row.get('error') or 'the result is not finite'}."
        yield from (f"{cell['label']}: {line}" for line in cell["log"] if not line.startswith("info"))
    for plan in results.get("plans", []):
        peaks = {stage: found["peak_bytes"] for stage, found in plan["stages"].items()}
        most, expected = max(peaks, key=lambda stage: peaks[stage]), max(plan["expected_bytes"].values())
        yield (
            f"Memory plan {plan['plan']}, a run with two steps and {plan['voxels']:,} voxels: {plan['seconds']:.1f} s,"
            f" peak {peaks[most] / 1e9:.1f} GB ({most}), {expected / 1e9:.1f} expected."
        )
    for skipped in results["skipped"]:
        yield f"Not measured: {skipped['cell']}: {skipped['reason']}."
    tests = results.get("tests")
    if tests:
        numbers = (f"{tests[name]} {name}" for name in ("passed", "failed", "skipped") if name in tests)
        yield f"Tests marked gpu: {', '.join(numbers) or tests['not_run']}."
    if results.get("note"):
        yield f"Note: {results['note']}."


def _kind(cell: Mapping[str, Any]) -> str:
    return ", ".join([*["stock"] * cell["stock"], cell["precision"], *["compiled"] * cell["compiled"]])


def _seconds(cells: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[float]]:
    """Of a variant, by stage."""
    ways = [way for cell in cells for way in cell["variants"] if way["name"] == name]
    return {stage: times for way in ways for stage, times in way["seconds"].items()}


def _row(cells: Sequence[Mapping[str, Any]], name: str, stock: Mapping[str, float]) -> tuple[str, ...]:
    """One variant in the cell of the sparse structure, in that of the object, or in both.

    Args:
        stock: median seconds of the stock classes without acceleration, by stage.
    """
    seconds, plain = _seconds(cells, name), _seconds(cells, OFF)
    ways = [(cell, way) for cell in cells for way in cell["variants"] if way["name"] == name]
    calls = sum(sum(way["calls"].values()) for _, way in ways)
    peaks = [
        cell.get("weights_bytes", 0) + peak
        for cell, way in ways
        for values in way["peak_bytes"].values()
        for peak in values
        if peak is not None
    ]
    size = cells[-1]["voxels"]
    medians = {stage: statistics.median(values) for stage, values in seconds.items() if values}
    total = ratio = to_stock = ""
    if medians and medians.keys() == plain.keys():
        own, off = ([sum(round_) for round_ in zip(*times.values(), strict=False)] for times in (seconds, plain))
        total = f"{sum(medians.values()):.3f}"
        ratio = f"{statistics.median(a / b for a, b in zip(off, own, strict=False)):.2f}×"
        known = [stage for stage in COMPARED if stage in medians]
        if known and stock.keys() >= set(known):
            to_stock = f"{sum(stock[stage] for stage in known) / sum(medians[stage] for stage in known):.2f}×"
    return (
        _kind(cells[-1]), "" if size is None else f"{size:,}", name,
        *(f"{medians[stage]:.3f}" if stage in medians else "" for stage in STAGES),
        total, ratio, to_stock, f"{max(peaks) / 1e9:.1f}" if peaks else "", f"{calls:g}",
        str(min(map(len, seconds.values()), default=0)),
    )  # fmt: skip
