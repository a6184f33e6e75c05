"""`fast-sam3d measure-exact`: time and peak memory of stock parts with and without their exact saving."""

from __future__ import annotations

import argparse
from typing import Any

from fast_sam3d.cli.flags import add_rounds
from fast_sam3d.cli.tables import aligned

PARTS = ("extraction", "attention", "overhead")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=PARTS, action="append", help="a part to measure; repeatable (default: all)")
    add_rounds(parser, 7)
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print every round as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    import dataclasses
    import json

    from fast_sam3d.bench.exact_parts import everything, overhead

    parts = args.part or PARTS
    found = list(everything(parts, args.rounds, args.device))
    overheads = overhead(args.rounds) if "overhead" in parts else {}
    if args.json:
        print(json.dumps([*map(dataclasses.asdict, found), *([overheads] if overheads else [])], indent=2))
    else:
        if found:
            print("\n".join(lines(found)))
        for name, seconds in overheads.items():
            print(f"{name}: {1000 * seconds:.0f} ms")
    return 0


def lines(found: list[Any]) -> list[str]:
    """The table: one line per part, medians of all rounds."""
    cells = [["part", "off", "on", "times faster", "peak off", "peak on", "less", "bits"]]
    for part in found:
        off, on = part.median_seconds()
        peaks = part.median_peaks()
        memory = ["", "", ""]
        if peaks is not None:
            memory = [f"{peak / 2**20:,.0f} MiB" for peak in peaks] + [f"{100 * (1 - peaks[1] / peaks[0]):.0f} %"]
        bits = "equal" if part.equal else "DIFFER"
        cells.append([part.label, f"{off:.2f} s", f"{on:.2f} s", f"{part.faster:.2f}", *memory, bits])
    return aligned(cells)
