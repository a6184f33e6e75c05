"""Measures the schedules of the samplers on held-out objects of the embedded model, and draws docs/schedules-*.png.

python docs/figures/schedules.py search --device cuda --minutes 2 --at_once 6 --cache outputs/schedules
    the schedules for each sampler and for all together, docs/measured/paths.json
python docs/figures/schedules.py presets --ss robust/14,robust/7
    writes them to configs/
python docs/figures/schedules.py evaluate --device cuda --minutes 3 --calibrated docs/measured/paths.json
    all rows on 100 objects x 2 seeds, docs/measured/schedules.json
python docs/figures/schedules.py draw
    the pictures, and prints the tables of docs/schedules.md
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from fast_sam3d.bench.schedules.draw import draw_all
from fast_sam3d.bench.schedules.evaluate import Settings, evaluate
from fast_sam3d.documents import read_json
from fast_sam3d.tune.presets import table, write_presets
from fast_sam3d.tune.robust import PARTS, RobustSettings, robust_search

DOCS = Path(__file__).parents[1]
log = logging.getLogger("schedules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser("search", help="schedules for each sampler, and for all of them together")
    search.add_argument("--device", default="cpu")
    search.add_argument("--objects", type=int, default=24)
    search.add_argument("--voxel_objects", type=int, default=12, help="of the structured latent")
    search.add_argument("--minutes", type=float, default=20)
    search.add_argument("--most", type=int, default=30, help="network calls")
    search.add_argument("--beam", type=int, default=2)
    search.add_argument("--parts", default=",".join(PARTS))
    search.add_argument("--at_once", type=int, default=1, help="parts at the same time, each in a process")
    search.add_argument("--cache", type=Path, required=True, help="folder for the objects")
    search.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    search.add_argument("--output", type=Path, default=DOCS / "measured" / "paths.json")
    presets = commands.add_parser("presets", help="write configs/ss/path*.yaml and configs/slat/path*.yaml")
    presets.add_argument("--paths", type=Path, default=DOCS / "measured" / "paths.json", help="of a search")
    presets.add_argument("--ss", help="PART/CALLS of path and of path_fast, robust/14,robust/7; none: print a table")
    presets.add_argument("--slat", default="7,5", help="calls of path and of path_fast")
    presets.add_argument("--configs", type=Path, default=DOCS.parent / "configs")
    draw = commands.add_parser("draw", help="pictures and tables of the results")
    draw.add_argument("--results", type=Path, default=DOCS / "measured" / "schedules.json")
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
    if args.command == "search":
        robust_search(
            RobustSettings(
                args.cache, args.device, args.objects, args.voxel_objects, minutes=args.minutes, most=args.most,
                beam=args.beam, processes=args.processes, parts=tuple(args.parts.split(",")), at_once=args.at_once,
            ),
            args.output,
        )  # fmt: skip
        return
    if args.command == "presets":
        found = read_json(args.paths)
        if args.ss is None:
            log.info(table(found))
            return
        first, second = args.ss.split(",")
        long, short = args.slat.split(",")
        picks = {"ss": (first, second), "slat": (f"/{long}", f"/{short}")}
        log.info("\n".join(map(str, write_presets(found, picks, args.configs))))
        return
    if args.command == "draw":
        log.info(draw_all(read_json(args.results), DOCS))
        return
    batch = args.batch or (16 if args.device == "cpu" else 1024)
    settings = Settings(
        args.device, args.objects, tuple(map(int, args.seeds.split(","))), tuple(args.samplers.split(",")),
        tuple(args.stages.split(",")), args.minutes, args.one_by_one, batch, args.calibrated, args.cache,
        args.processes,
    )  # fmt: skip
    evaluate(settings, args.output)


if __name__ == "__main__":
    main()
