"""`fast-sam3d methods`: the presets, then every method with its paper, stages, needs and overrides."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from fast_sam3d.cli.tables import aligned
from fast_sam3d.config.catalogue import NEEDS, Listing, listed
from fast_sam3d.config.compose import group_options
from fast_sam3d.config.packaged import resource
from fast_sam3d.documents import parse_yaml

PRESETS = ("preset", "picks")
HEADER = ("method", "paper", "stages", "needs", "switch on with")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", metavar="STAGE", help="methods of one stage, ss, slat or mesh (default: all)")
    parser.add_argument("--json", action="store_true", help="print the methods as JSON")


def main(args: argparse.Namespace) -> int:
    methods = listed(args.stage)
    if args.json:
        print(json.dumps([method.to_dict() for method in methods], indent=2))
        return 0
    if args.stage is None:
        *rows, notes = zip(*map(_preset, group_options()["preset"]), strict=True)
        heading, rule, *lines = _table([PRESETS, *zip(*rows, strict=True)])
        print("\n".join([heading, rule, *(f"{line}\n    {note}" for line, note in zip(lines, notes, strict=True)), ""]))
    rows = [HEADER, *(_row(method, args.stage) for method in methods)]
    print("\n".join(_table(rows)))
    shown = dict.fromkeys(need for method in methods for need in _needs(method, args.stage))
    print("\npapers are arXiv numbers; `fast-sam3d config ss=taylorseer` prints the settings of a method")
    for need in shown:
        print(f"{need}: {NEEDS[need]}")
    return 0


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = aligned(rows, left=len(rows[0]))
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _preset(name: str) -> tuple[str, ...]:
    """Name, the methods that it picks, and the comment in its file."""
    text = (resource("configs") / "preset" / f"{name}.yaml").read_text(encoding="utf-8")
    picks = [pick for entry in (parse_yaml(text, name) or {}).get("defaults", ()) for pick in entry.items()]
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    methods = " ".join(f"{group.removeprefix('override /')}={option}" for group, option in picks)
    return f"--preset {name}", methods or "-", " ".join(comments[1:])


def _row(method: Listing, stage: str | None) -> tuple[str, ...]:
    switch = [o for name, overrides in method.switch.items() for o in overrides if stage in (None, name)]
    needs = ", ".join(_needs(method, stage)) or "-"
    return method.title, method.paper or "-", " ".join(method.stages), needs, " ".join(switch)


def _needs(method: Listing, stage: str | None) -> tuple[str, ...]:
    return method.all_needs if stage is None else method.needs[stage]
