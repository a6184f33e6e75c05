"""Schedules with the best worst case over several samplers, and the best for each of them, on the embedded model.

`docs/figures/schedules.py search` runs it; its result is what configs/ss/path*.yaml and configs/slat/path*.yaml hold.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.samplers import decode_structure
from fast_sam3d.adapters.solves import RecordedSolve, record
from fast_sam3d.bench.record import write_text
from fast_sam3d.bench.samplers import OWN, SAMPLERS
from fast_sam3d.bench.schedules.inputs import CALIBRATION_SEED, Inputs, load_inputs
from fast_sam3d.bench.schedules.solves import LatentBed, Method, StructureBed
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.tune.path_search import FoundPath, search
from fast_sam3d.tune.problem import Problem

__all__ = ["RobustSettings", "robust_search"]

log = logging.getLogger(__name__)

AT = 14
"""Network calls of the structure at which the samplers' errors are balanced."""


@dataclass(frozen=True)
class RobustSettings:
    """Of the search.

    Args:
        device: torch's name.
        objects: of the structure, as many again to choose among what was found.
        voxel_objects: of the structured latent.
        minutes: for everything; what is found by then is written.
        most, most_latent: calls of the most expensive schedules.
        cache, processes: of `load_inputs`.
    """

    device: str = "cpu"
    objects: int = 48
    voxel_objects: int = 8
    seed: int = 42
    minutes: float = 2.5
    most: int = 30
    most_latent: int = 20
    beam: int = 2
    cache: Path | None = None
    processes: int = 1


@dataclass
class Found:
    """JSON-ready: paths {stage: {sampler or "robust": {calls: settings}}}, and their evidence in the same places."""

    paths: dict[str, dict[str, dict[int, Any]]] = field(default_factory=dict)
    evidence: dict[str, dict[str, dict[int, Any]]] = field(default_factory=dict)

    def add(self, name: str, found: Mapping[int, FoundPath]) -> None:
        for calls, path in found.items():
            self.paths.setdefault(path.stage, {}).setdefault(name, {})[calls] = path.method()
            evidence = {"errors": list(path.errors), "layout": path.plain["layout"]}
            self.evidence.setdefault(path.stage, {}).setdefault(name, {})[calls] = evidence

    def save(self, output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, json.dumps({"paths": self.paths, "evidence": self.evidence}, indent=1) + "\n")


def robust_search(settings: RobustSettings, output: Path) -> Found:
    """Search, and write `output` after every part.

    The time is divided: the structured latent, each sampler of the structure, then all samplers together, then a check
    on other objects.
    """
    began = time.monotonic()
    end = began + 60 * settings.minutes
    checkpoint = find_checkpoint("mini").folder
    seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + 2 * settings.objects)
    inputs = load_inputs(checkpoint, seeds, settings.cache, settings.processes)
    pipeline = Pipeline.from_pretrained(checkpoint, settings.device)
    torch.backends.cudnn.allow_tf32 = False
    inputs = inputs.to(pipeline.device)
    _said(began, f"{len(inputs)} objects are there")
    found = Found()

    def part(share: float) -> float:
        """Seconds until a share of what is left is over."""
        return max(share * (end - time.monotonic()), 1.0)

    problems = {}
    for name, sampler in SAMPLERS.items():
        with sampler.on(pipeline):
            problems[name] = structure_problem(pipeline, inputs.first(settings.objects), settings.seed, name)
        _said(began, f"baseline under {name}: {sum(problems[name].calls)} calls")
    limits = {"published": 0.2, "mild": 0.15, "own": 0.15}
    own: dict[str, dict[int, FoundPath]] = {}
    for name, problem in problems.items():
        own[name] = search([problem], settings.most, beam=settings.beam, rounds=3, seconds=part(limits[name]))
        found.add(name, own[name])
        found.save(output)
        _said(began, f"{name}: {_listed(own[name])}")
    balanced = [
        Problem(p.groups, p.metric, 1 / _error_at(own[p.name], AT), p.name, p.rows_per_call) for p in problems.values()
    ]
    robust = search(balanced, 24, beam=settings.beam, objective="worst", rounds=3, seconds=part(0.4))
    found.add("robust", robust)
    found.save(output)
    _said(began, f"robust: {_listed(robust)}")
    latent = latent_problem(pipeline, inputs.first(settings.voxel_objects), settings.seed)
    paths = search([latent], settings.most_latent, rounds=2, seconds=part(0.5))
    found.add("", paths)
    found.save(output)
    _said(began, f"structured latent: {_listed(paths)}")
    check(pipeline, _rest(inputs, settings.objects), settings, found, end)
    found.save(output)
    _said(began, "done")
    return found


def structure_problem(pipeline: Any, inputs: Inputs, seed: int, name: str, rows: int = 4096) -> Problem:
    """The baselines of the sparse structure under the sampler that is set."""
    bed = StructureBed(pipeline, inputs, [seed], len(inputs))
    generator = adapt(pipeline).generator("ss")
    (solve,) = record(pipeline, lambda: bed.begin(generator), ("ss",), solve=False).values()
    return Problem.of([solve], name=name, rows_per_call=rows)


def latent_problem(pipeline: Any, inputs: Inputs, seed: int) -> Problem:
    """The baselines of the structured latent, on the voxels of the pipeline's own sampler, all objects as one."""
    with OWN.on(pipeline):
        structures = StructureBed(pipeline, inputs, [seed], len(inputs))
        occupied = structures.occupied(structures.solve(Method()))
    edge = pipeline.resolution
    voxels = [torch.argwhere(each.reshape(edge, edge, edge)) for each in occupied]
    bed = LatentBed(pipeline, inputs.slat, voxels, [seed] * len(voxels), len(voxels))
    (solve,) = record(pipeline, lambda: bed.begin(adapt(pipeline).generator("slat")), ("slat",), solve=False).values()
    return Problem.of([solve])


def check(pipeline: Any, inputs: Inputs, settings: RobustSettings, found: Found, end: float) -> None:
    """Voxel IoU, pose drift and calls of every path on other objects, added to the evidence."""
    for name, sampler in SAMPLERS.items():
        with sampler.on(pipeline):
            bed = StructureBed(pipeline, inputs, [settings.seed], max(len(inputs), 1))
            base = bed.state(bed.solve(Method()))
            for place in ("robust", name):
                for calls, method in found.paths["ss"].get(place, {}).items():
                    if time.monotonic() > end - 2:
                        return
                    solved = bed.solve(Method(method))
                    scores = {key: float(np.mean(value)) for key, value in bed.state(solved).against(base).items()}
                    found.evidence["ss"][place][calls].setdefault("checked", {})[name] = {"calls": solved.calls, **scores}
                    log.info("  %-10s %-10s %2d -> %4.1f calls: %.4f", name, place, calls, solved.calls, scores["voxel_iou"])


def _rest(inputs: Inputs, first: int) -> Inputs:
    return Inputs(*(getattr(inputs, name)[first:] for name in inputs.__dataclass_fields__))


def _error_at(found: Mapping[int, FoundPath], calls: int) -> float:
    """Of the best schedule with at most so many calls."""
    return next(path.errors[0] for number, path in sorted(found.items(), reverse=True) if number <= calls)


def _listed(found: Mapping[int, FoundPath]) -> str:
    return ", ".join(f"{calls}: {'/'.join(f'{e:.3f}' for e in path.errors)}" for calls, path in found.items())


def _said(began: float, text: str) -> None:
    log.info("%5.1f s: %s", time.monotonic() - began, text)
