"""Measures the schedules of the samplers on held-out objects of the embedded model, and draws docs/schedules-*.png.

python docs/figures/schedules.py evaluate --device cuda --minutes 3      docs/measured/schedules.json
python docs/figures/schedules.py draw                                    pictures, and the tables of docs/schedules.md
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from fast_sam3d.bench.schedules.evaluate import Settings, evaluate

DOCS = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("evaluate",):
        command = commands.add_parser(name)
        command.add_argument("--device", default="cpu")
        command.add_argument("--objects", type=int, default=100)
        command.add_argument("--seeds", default="42,43", help="of the noise")
        command.add_argument("--samplers", default="published,mild,own")
        command.add_argument("--stages", default="ss,slat")
        command.add_argument("--minutes", type=float, default=60)
        command.add_argument("--one_by_one", type=int, default=16, help="objects of methods that decide by values")
        command.add_argument("--batch", type=int, help="objects that are solved at once (default: 16, on a GPU all)")
        command.add_argument("--calibrated", type=Path, help="the paths of a search")
        command.add_argument("--cache", type=Path, help="folder for the objects")
        command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
        command.add_argument("--output", type=Path, default=DOCS / "measured" / "schedules.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    batch = args.batch or (16 if args.device == "cpu" else 1024)
    settings = Settings(
        args.device, args.objects, tuple(map(int, args.seeds.split(","))), tuple(args.samplers.split(",")),
        tuple(args.stages.split(",")), args.minutes, args.one_by_one, batch, args.calibrated, args.cache,
        args.processes,
    )  # fmt: skip
    evaluate(settings, args.output)


if __name__ == "__main__":
    main()
