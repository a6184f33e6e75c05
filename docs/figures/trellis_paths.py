"""Presets of TRELLIS on the embedded model under TRELLIS's sampler: the column "embedded model" of docs/trellis.md.

    python docs/figures/trellis_paths.py [--cache DIR]           # drift on held-out objects
    python docs/figures/trellis_paths.py --search ss --most 16   # searches the nodes and weights of a path, on others

Drift is the relative error of a stage's final latent against every step. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.adapters import adapt, sam3d_of
from fast_sam3d.adapters.solves import record
from fast_sam3d.bench.held_out import FIRST_SEED
from fast_sam3d.bench.schedules.inputs import CALIBRATION_SEED, load_inputs
from fast_sam3d.bench.schedules.solves import LatentBed, Method, StructureBed
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.config.compose import load
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.tune.path_search import search
from fast_sam3d.tune.problem import Problem

RESCALE_T, STRENGTH, SEED = 3.0, 5.0, 42
ROWS: dict[str, dict[str, list[str]]] = {
    "ss": {
        "trellis": ["preset=trellis"],
        "trellis_fast": ["preset=trellis_fast"],
        "fast_trellis": ["preset=fast_trellis"],
        "fast_trellis, stride 3": ["preset=fast_trellis", "ss.when.stride=3"],
    },
    "slat": {
        "trellis": ["preset=trellis"],
        "trellis_fast": ["preset=trellis_fast"],
        "fast_trellis, all voxels": ["preset=fast_trellis"],
        "the same, threshold 0.5": ["preset=fast_trellis", "slat.when.threshold=0.5"],
    },
}
STEPS = {"ss": 9, "slat": 5}
"""Of a plain solve in the last row."""
SEARCHED = {"ss": (8, (16, 9, 8, 10)), "slat": (4, (10, 6, 7, 5))}
"""Objects that a path is searched on, and numbers of calls around it that are searched with it."""


def method(stage: str, overrides: list[str]) -> dict[str, Any]:
    """A stage's settings on all tokens; the embedded model's sparse structure has a layout beside the shape."""
    found = {**load(overrides).modules[stage], "where": {"name": "all"}}
    if stage == "ss":
        found["predict"] = {"shape": found["predict"], "layout": {"name": "hold"}}
    return found


def voxels_of(pipe: Pipeline, bed: StructureBed) -> list[Tensor]:
    """[N, 3] of each object, from plain solves."""
    edge = pipe.resolution
    return [torch.argwhere(own.reshape(edge, edge, edge)) for own in bed.occupied(bed.solve(Method()))]


@contextmanager
def under_trellis(pipe: Pipeline, stage: str, strength: float) -> Iterator[None]:
    with adapt(pipe).sampler_set(stage, RESCALE_T, strength):
        yield


def drift(pipe: Pipeline, inputs: Any, stage: str, objects: int, strength: float) -> None:
    """Print calls and drift of each row, and the voxel IoU of structures."""
    few = inputs.first(objects)
    structures = StructureBed(pipe, few, [SEED], objects)
    bed: Any = structures
    if stage == "slat":
        bed = LatentBed(pipe, few.slat, voxels_of(pipe, structures), [SEED] * objects, objects)
    with under_trellis(pipe, stage, strength):
        base = bed.solve(Method())
        rows = {name: Method(method(stage, overrides)) for name, overrides in ROWS[stage].items()}
        for name, row in {**rows, f"{STEPS[stage]} steps": Method(None, STEPS[stage])}.items():
            alone = (row.settings or {}).get("when", {}).get("name") == "budget"
            solved = bed.solve(row, together=not alone)
            if stage == "slat":
                away, iou = bed.against(solved, base)["latent_error"], ""
            else:
                a, b = (each.leaves["shape"].flatten(1) for each in (solved, base))
                away = ((a - b).norm(dim=1) / b.norm(dim=1)).numpy()
                iou = f", voxel IoU {bed.state(solved).against(bed.state(base))['voxel_iou'].mean():.3f}"
            print(f"{stage:5}{name:28}{solved.calls:6g} calls   drift {away.mean():.4f}, at most {away.max():.4f}{iou}")


def searched(pipe: Pipeline, inputs: Any, stage: str, most: int) -> None:
    """Print paths of up to `most` calls, as JSON."""
    objects, around = SEARCHED[stage]
    few = inputs.first(objects)
    bed: Any = StructureBed(pipe, few, [SEED], objects)
    if stage == "slat":
        bed = LatentBed(pipe, few.slat, voxels_of(pipe, bed), [SEED] * objects, objects)
    with under_trellis(pipe, stage, STRENGTH):
        generator = sam3d_of(pipe).generator(stage)
        (solve,) = record(pipe, lambda: bed.begin(generator), (stage,), solve=False).values()
        if stage == "ss":
            found = search([Problem.of([solve], rows_per_call=4096)], most, rounds=2, seconds=400, around=around)
        else:
            with sam3d_of(pipe).network("slat").keeping(*solve.args):
                found = search([Problem.of([solve])], most, rounds=2, seconds=300, around=around)
    for calls, path in found.items():
        print(calls, [round(error, 4) for error in path.errors], json.dumps(path.plain))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--search", choices=("ss", "slat"))
    parser.add_argument("--most", type=int, default=16, metavar="CALLS")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="of guidance, where nothing is searched")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keeps the objects (default: a temporary folder)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        checkpoint = find_checkpoint("mini").folder
        pipe = Pipeline.from_pretrained(checkpoint)
        first, count = (CALIBRATION_SEED, 24) if args.search else (FIRST_SEED, 16)
        inputs = load_inputs(checkpoint, range(first, first + count), args.cache or Path(folder), 1)
        if args.search:
            searched(pipe, inputs, args.search, args.most)
            return
        drift(pipe, inputs, "ss", 12, args.strength)
        drift(pipe, inputs, "slat", 4, args.strength)


if __name__ == "__main__":
    main()
