"""Measures the memory plans of the native runtime at full size, without a GPU, into docs/measured/memory_plans.json.

python docs/figures/memory_plans.py            every plan on the meta device, in float16: minutes
python docs/figures/memory_plans.py --cpu      the 8GB plan on this machine's CPU too, in bfloat16: 4 GiB, half an hour
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import torch

from fast_sam3d.bench.plan_peaks import RADIUS_20K, RADIUS_40K, plan_peaks, random_parts, surface_peak, voxels_of
from fast_sam3d.documents import read_json
from fast_sam3d.native.plans import PLANS, STAGES
from fast_sam3d.telemetry.report import peak_host_bytes

OUT = Path(__file__).parents[1] / "measured" / "memory_plans.json"
GIB = 2**30
log = logging.getLogger("memory_plans")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="compute the smallest plan with random weights as well")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, Any] = {"torch": torch.__version__, "surface_bytes": {}, "traced": [], "computed": None}
    parts = random_parts()
    for radii in (RADIUS_20K, RADIUS_40K):
        found["surface_bytes"][str(len(voxels_of(radii, 64)))] = surface_peak(radii)
        for plan in PLANS.values():
            row = plan_peaks(plan, radii, torch.device("meta"), torch.float16, parts=parts)
            for stage in row["stages"].values():
                del stage["seconds"]  # of the trace
            found["traced"].append(row)
            log.info("%s, %d voxels: %.2f GiB", plan.name, row["voxels"], _peak(row) / GIB)
    if args.cpu:
        found["computed"] = _computed()
    elif OUT.is_file():
        found["computed"] = read_json(OUT)["computed"]
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _computed() -> dict[str, Any]:
    """Every stage of the smallest plan, one after the other; the samplers run one step without guidance."""
    rows: dict[str, Any] = {"plan": "8GB", "half": "torch.bfloat16", "machine": _machine(), "stages": {}}
    for stage in STAGES:
        row = plan_peaks(PLANS["8GB"], RADIUS_20K, torch.device("cpu"), torch.bfloat16, stages=(stage,))
        rows |= {"voxels": row["voxels"], "stages": {**rows["stages"], **row["stages"]}}
        log.info("8GB on this CPU, %s: %s", stage, row["stages"])
    return {**rows, "process_peak_bytes": peak_host_bytes()}


def _peak(row: dict[str, Any]) -> int:
    return max(stage["peak_bytes"] for stage in row["stages"].values())


def _machine() -> dict[str, Any]:
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads()}  # fmt: skip


if __name__ == "__main__":
    main()
