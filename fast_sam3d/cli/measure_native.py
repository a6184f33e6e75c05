"""`fast-sam3d measure-native`: time and peak memory of parts of the native runtime next to the stock parts."""

from __future__ import annotations

import argparse
from typing import Any

from fast_sam3d.cli.flags import add_rounds
from fast_sam3d.cli.tables import aligned

PARTS = ("extraction", "attention", "network")
VOXELS = {"8k": 18.9, "20k": 29.6}
"""Radii of shells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=PARTS, action="append", help="a part to measure; repeatable (default: all)")
    parser.add_argument("--network_voxels", choices=VOXELS, default="8k", help="size of the mesh network's object")
    add_rounds(parser, 3)
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print every round as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    import dataclasses
    import json
    import platform

    import torch

    from fast_sam3d.bench.native_parts import everything

    found = list(everything(args.part or PARTS, args.rounds, args.device, VOXELS[args.network_voxels]))
    if args.json:
        about = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {args.device}"
        print(json.dumps({"about": about, "parts": [*map(dataclasses.asdict, found)]}, indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: list[Any]) -> list[str]:
    """The table: one line per part, medians of all rounds."""
    cells = [
        ["part", "stock", "native", "times faster", "times fewer operations", "peak stock", "peak native", "differ"]
    ]
    for part in found:
        stock, own = part.median_seconds()
        peaks = part.median_peaks()
        memory = ["", ""] if peaks is None else [f"{peak / 2**20:,.0f} MiB" for peak in peaks]
        counts = part.operations
        fewer = f"{counts[0] / counts[1]:.2f}" if counts else ""
        differ = "equal" if part.equal else "shapes" if part.difference is None else f"{part.difference:.1e}"
        cells.append([part.label, f"{stock:.2f} s", f"{own:.2f} s", f"{part.faster:.2f}", fewer, *memory, differ])
    return aligned(cells)
