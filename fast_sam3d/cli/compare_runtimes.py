"""`fast-sam3d compare-runtimes`: the stock runtime and the native one with the same weights, stage by stage."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fast_sam3d.cli.arguments import ANY, at_least
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.cli.flags import add_config_flags
from fast_sam3d.cli.tables import aligned

OVERRIDES = ANY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    parser.add_argument(
        "--limit", type=at_least(0, float), metavar="X",
        help="largest relative difference, above which the exit code is 1 (default: 0.001 in float32, more in half"
        " precision)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    import json

    import torch

    from fast_sam3d.bench.runtimes import LIMITS, compare_stages, run_stages
    from fast_sam3d.checkpoints.load import DEFAULT_STOCK_TAG, find_checkpoint, load_checkpoint
    from fast_sam3d.errors import CheckpointError, InputError
    from fast_sam3d.inputs.load import load_asked
    from fast_sam3d.run.object import with_alpha

    config = config_from(args, ("sam3d",))
    asked, chosen = config.pipeline, config.input
    if chosen.image_path is None:
        raise InputError("name the picture with --image_path: a folder with image.png and its masks, or a file")
    if asked.runtime != "auto":
        raise CheckpointError("compare-runtimes runs both runtimes: leave out --runtime")
    given = load_asked(chosen)
    rgba = with_alpha(given.image, given.mask)
    points = None if given.pointmap is None else torch.as_tensor(given.pointmap)
    tag = asked.tag or DEFAULT_STOCK_TAG
    checkpoints = [find_checkpoint(tag, asked.device, runtime) for runtime in ("stock", "native")]
    found: list[Any] = []
    for checkpoint in checkpoints:
        loading = asked.loading
        if checkpoint.runtime == "stock":
            loading = loading._replace(memory="auto", half_cache=False)  # of the native runtime alone
        pipeline = load_checkpoint(checkpoint, *loading)
        precision = str(pipeline.dtype).removeprefix("torch.")
        steps = (asked.ss_steps, asked.slat_steps)
        found.append(run_stages(pipeline, rgba, points, config.seed, steps, found[0] if found else None))
        del pipeline  # both would not fit
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    rows = compare_stages(*found)
    limit = LIMITS[precision] if args.limit is None else args.limit
    fine = all(row.within(limit) for row in rows)
    if args.json:
        print(json.dumps({"precision": precision, "limit": limit, "differences": [*map(asdict, rows)]}, indent=2))
    else:
        print("\n".join(table(rows, limit)))
        verdict = "no difference is larger" if fine else "larger differences are marked"
        print(f"{precision}; limit of the relative difference {limit:g}: {verdict}")
    return 0 if fine else 1


def table(rows: Sequence[Any], limit: float) -> list[str]:
    """One line per result."""
    cells = [["stage", "result", "shape", "largest difference", "relative", ""]]
    for row in rows:
        shape = " x ".join(map(str, row.size))
        mark = "" if row.within(limit) else "LARGER"
        cells.append([row.stage, row.name, shape, f"{row.largest:.2g}", f"{row.relative:.2g}", mark])
    return aligned(cells, left=3)
