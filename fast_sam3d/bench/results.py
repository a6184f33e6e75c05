"""Output files of a bench."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fast_sam3d.bench.record import without_nan, write_rows, write_text
from fast_sam3d.bench.suite import Suite
from fast_sam3d.bench.summary import by_sampler, markdown
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.folder import writing

ROWS, PARQUET, TABLE, SUMMARY = "rows.csv", "rows.parquet", "table.md", "summary.json"


def check_packages(pictures: bool, parquet: bool) -> None:
    """Check before the work that the packages for the output formats are installed.

    Raises:
        FastSam3dError: a package is not installed.
    """
    if pictures and importlib.util.find_spec("matplotlib") is None:
        raise FastSam3dError("the plots need matplotlib: pip install fast-sam3d[bench], or give --no_pictures")
    if parquet and importlib.util.find_spec("pyarrow") is None:
        raise FastSam3dError(
            "Parquet needs pyarrow: pip install fast-sam3d[bench], or leave --parquet out; rows.csv has the same data"
        )


def write(
    folder: Path, rows: Sequence[Mapping[str, Any]], suite: Suite, about: Sequence[str], pictures: bool = True,
    parquet: bool = False,
) -> list[str]:  # fmt: skip
    """Write the rows, the tables, their numbers as JSON, and the plots. Returns the file names.

    Args:
        rows: one per run. about: lines that describe the runs.
    """
    samplers = by_sampler(rows)
    first, found = next(iter(samplers.items()))
    write_rows(folder / ROWS, rows)
    written = [ROWS]
    if parquet:
        _write_parquet(folder / PARQUET, rows)
        written.append(PARQUET)
    write_text(folder / TABLE, markdown(samplers, suite.methods, suite.main, about))
    summary = {
        "about": list(about),
        "methods": dict(suite.methods),
        "sampler": first,
        "standings": {n: asdict(s) for n, s in found.items()},
        "other_samplers": {other: {n: asdict(s) for n, s in samplers[other].items()} for other in list(samplers)[1:]},
    }
    write_text(folder / SUMMARY, json.dumps(without_nan(summary), indent=1, allow_nan=False))
    written += [TABLE, SUMMARY]
    if pictures:
        from fast_sam3d.bench.plots import draw_all

        written += draw_all(folder, found, suite, first)
    return written


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    with writing(path), atomic_write(path) as file:
        parquet.write_table(table, file)
