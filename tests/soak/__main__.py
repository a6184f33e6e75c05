"""`python -m tests.soak`: runs the campaigns and prints their counts; 1 if anything was not as it should be."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

import torch


def main() -> int:
    """All campaigns, or the ones that are named."""
    from tests.soak import kills, repeats
    from tests.soak.folders import inputs

    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("which", nargs="*", metavar="CAMPAIGN", help="of kills, runs and sequences (default: all)")
    parser.add_argument("--moments", type=int, default=20, help="of each kind of kill (default: 20)")
    parser.add_argument("--of", default="infer,scene,bench,tune", help="commands that are killed (default: all four)")
    parser.add_argument("--count", type=int, default=500, help="runs, and sequences (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and sequences (default: 0)")
    args = parser.parse_args()
    which = args.which or ["runs", "sequences", "kills"]
    torch.set_num_threads(1)
    bad = 0
    if "runs" in which:
        bad += repeats.runs(args.count)
    if "sequences" in which:
        bad += repeats.sequences(args.count, random.Random(args.seed))
    if "kills" in which:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            os.chdir(root)
            os.environ["XDG_CACHE_HOME"] = str(root / "cache")
            inputs(root)
            for command in args.of.split(","):
                for worker in (False, True) if command in kills.WORKERS else (False,):
                    found = kills.campaign(command, worker, args.moments, random.Random(args.seed), root)
                    bad += found["WRONG"] + found["traceback"] + (found["killed"] < args.moments)
            os.chdir("/")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
