"""`fast-sam3d count`: operations per object at the published sizes, without and with each exact saving."""

from __future__ import annotations

import argparse
import sys

from fast_sam3d.cli.tables import aligned
from fast_sam3d.config.settings import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="SAM 3D Objects, or TRELLIS image-large")
    parser.add_argument("--json", action="store_true", help="print operations as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    import json

    from fast_sam3d.adapters import adapt
    from fast_sam3d.bench.operations import PUBLISHED, table

    pipeline, columns = (make() for make in PUBLISHED[args.model])
    columns = list(columns)
    counts = table(pipeline, columns, lambda row: print(f"counting: {row}", file=sys.stderr))
    if args.json:
        labels = [solve.label for solve in columns]
        print(json.dumps({row: dict(zip(labels, values, strict=True)) for row, values in counts.items()}, indent=2))
        return 0
    print("Operations of one object at the published sizes, 10^12 (2 per multiply-add), and what each saves.")
    print("SLaT depends on the object: voxels / packed tokens; so does the mesh decoder: voxels.")
    print()
    print("\n".join(lines(counts, [solve.label for solve in columns])))
    print()
    for stage in ("ss", "slat"):
        conditional, unconditional = adapt(pipeline).network_calls(stage)
        print(f"{stage}: {conditional + unconditional} network calls, {unconditional} of them without condition")
    return 0


def lines(counts: dict[str, list[int]], labels: list[str]) -> list[str]:
    """The table: one line per saving, one column per stage; savings without effect here share a last line."""
    cells = [["saving", *labels]]
    elsewhere = [row for row, values in counts.items() if values == counts["off"] and row not in ("off", "all")]
    for row, values in counts.items():
        if row in elsewhere:
            continue
        cells.append([row])
        for value, plain in zip(values, counts["off"], strict=True):
            share = "" if value == plain else f"{100 * (value / plain - 1):.1f} %"
            cells[-1].append(f"{value / 1e12:.1f} {share:>8}")
    table = aligned(cells)
    return table + ([f"outside these networks: {', '.join(elsewhere)}"] if elsewhere else [])
