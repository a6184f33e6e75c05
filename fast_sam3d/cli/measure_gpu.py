"""`fast-sam3d measure-gpu`: time and memory of the full-size networks with random weights; see docs/gpu.md."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from fast_sam3d.cli.arguments import at_least
from fast_sam3d.cli.flags import add_overwrite, add_rounds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=at_least(0, float, above=True), default=8.0, metavar="M", help="time for everything"
    )
    add_rounds(parser, 5)
    parser.add_argument("--device", metavar="DEVICE", help="cuda, cuda:1, mps or cpu (default: cuda)")
    parser.add_argument("--small", action="store_true", help="tiny networks and one round: tries the whole command")
    parser.add_argument("--no_tests", action="store_true", help="leave out the tests that need a GPU")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON with every number (default: outputs/gpu/CARD.json)"
    )
    add_overwrite(parser, "an existing file")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="print the table of such a JSON, as Markdown (default: measure)"
    )
    parser.add_argument("--short", action="store_true", help="with --show: only the first size in the first precision")


def main(args: argparse.Namespace) -> int:
    from fast_sam3d.bench.gpu.table import HEADER, markdown, notes, read, rows
    from fast_sam3d.cli.tables import aligned

    if args.show is not None:
        print(markdown(read(args.show), args.short))
        return 0
    from fast_sam3d.bench.gpu.machine import card, device_of
    from fast_sam3d.bench.gpu.measure import Settings, measure
    from fast_sam3d.bench.gpu.networks import FULL, SMALL
    from fast_sam3d.errors import OutputError
    from fast_sam3d.outputs.folder import writable_folder

    device = device_of(args.device, args.small)
    slug = re.sub(r"[^a-z0-9]+", "-", card(device).lower()).strip("-")
    path = args.output or Path("outputs/gpu") / f"{slug}.json"
    if path.exists() and not args.overwrite:
        raise OutputError(f"{path} exists: add --overwrite to replace it, or give another --output")
    writable_folder(path.parent, "--output")
    rounds = 1 if args.small else args.rounds
    settings = Settings(SMALL if args.small else FULL, device, args.minutes, rounds, tests=not args.no_tests)
    results = measure(settings, path, ["fast-sam3d", *sys.argv[1:]])
    print("\n".join([*aligned([HEADER, *rows(results)], left=3), "", *notes(results)]))
    print(f"\nevery number is in {path}; `fast-sam3d measure-gpu --show {path}` prints the table as Markdown")
    return 0
