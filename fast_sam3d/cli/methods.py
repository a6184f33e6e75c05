"""`fast-sam3d methods`: every method, whose it is, where it fits, what it needs, how it is switched on."""

from __future__ import annotations

import argparse
import json

from fast_sam3d.cli.tables import aligned
from fast_sam3d.config.catalogue import NEEDS, Listing, listed

__all__ = ["add_arguments", "main"]

HEADER = ("method", "paper", "stages", "needs", "switch on with")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", metavar="STAGE", help="only those that fit ss, slat or mesh")
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(args: argparse.Namespace) -> int:
    methods = listed(args.stage)
    if args.json:
        print(json.dumps([method.to_dict() for method in methods], indent=2))
        return 0
    rows = [HEADER, *(_row(method, args.stage) for method in methods)]
    lines = aligned(rows, left=len(HEADER))
    lines.insert(1, "-" * max(len(line) for line in lines))
    print("\n".join(lines))
    shown = dict.fromkeys(need for method in methods for need in _needs(method, args.stage))
    print("\nnumbers of papers are arXiv's; `fast-sam3d config ss=taylorseer` prints a method's settings")
    for need in shown:
        print(f"{need}: {NEEDS[need]}")
    return 0


def _row(method: Listing, stage: str | None) -> tuple[str, ...]:
    switch = [o for name, overrides in method.switch.items() for o in overrides if stage in (None, name)]
    needs = ", ".join(_needs(method, stage)) or "-"
    return method.title, method.paper or "-", " ".join(method.stages), needs, " ".join(switch)


def _needs(method: Listing, stage: str | None) -> tuple[str, ...]:
    return method.all_needs if stage is None else method.needs[stage]
