"""Schedules with the best worst case over several samplers, and the best for each of them, on the embedded model.

`docs/figures/schedules.py search` runs it; its result is what configs/ss/path*.yaml and configs/slat/path*.yaml hold.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.adapters import sam3d_of
from fast_sam3d.adapters.samplers import decode_structure
from fast_sam3d.adapters.solves import record
from fast_sam3d.bench.record import write_text
from fast_sam3d.bench.samplers import OWN, SAMPLERS
from fast_sam3d.bench.schedules.inputs import CALIBRATION_SEED, Inputs, load_inputs
from fast_sam3d.bench.schedules.solves import LatentBed, Method, StructureBed
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.errors import one_line
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.run.pool import worker_pool
from fast_sam3d.tune.path_search import FoundPath, search
from fast_sam3d.tune.problem import Problem
from fast_sam3d.tune.student import Prefix

__all__ = ["PARTS", "RobustSettings", "robust_search"]

log = logging.getLogger(__name__)

ROBUST = {"robust": 0.0, "balanced": 0.5}
"""The largest of the samplers' errors, each divided by this power of what its own schedule has at `AT` calls."""
AT = 14
PARTS = (*SAMPLERS, *ROBUST, "latent")
AROUND = (22, 15, 11, 14, 18, 13, 9, 12, 20, 10, 17, 16, 8, 7, 6, 19, 21, 24, 26, 28, 30)
"""Numbers of calls whose schedules the local search changes, the most important first."""
AROUND_LATENT = (7, 10, 5, 6, 8, 9, 12, 4, 11, 14)


@dataclass(frozen=True)
class RobustSettings:
    """Of the search.

    Args:
        device: torch's name.
        objects: of the structure; as many others are there to check what was found.
        voxel_objects: of the structured latent.
        minutes: for everything; what is found by then is written.
        most, most_latent: calls of the most expensive schedules.
        cache: folder of the inputs and of each part's result.
        processes: that create the inputs.
        parts: of `PARTS`.
        at_once: parts that run at the same time, each in a process.
    """

    cache: Path
    device: str = "cpu"
    objects: int = 24
    voxel_objects: int = 12
    seed: int = 42
    minutes: float = 2.5
    most: int = 30
    most_latent: int = 20
    beam: int = 2
    processes: int = 1
    parts: tuple[str, ...] = PARTS
    at_once: int = 1


def robust_search(settings: RobustSettings, output: Path) -> dict[str, Any]:
    """Search, and write `output` after every part.

    Returns:
        paths {stage: {part: {calls: settings}}} and evidence, in the same places.
    """
    end = time.time() + 60 * settings.minutes  # wall-clock, as all processes share it
    found: dict[str, Any] = {"paths": {}, "evidence": {}}
    output.parent.mkdir(parents=True, exist_ok=True)
    with worker_pool(settings.at_once, _start, settings, end) as pool:
        jobs = {pool.submit(_part, part): part for part in settings.parts}
        _inputs(settings)  # in this process and its own pool, while the others start; they wait for its file
        for job in as_completed(jobs):
            try:
                own = job.result()
            except Exception as error:  # of any kind: the other parts go on
                log.warning("%s: %s", jobs[job], one_line(error))
                continue
            for kind, stages in own.items():
                for stage, parts in stages.items():
                    found[kind].setdefault(stage, {}).update(parts)
            write_text(output, _text(found))
            log.info("%s is done, %.0f s are left", jobs[job], end - time.time())
    return found


def _text(found: Mapping[str, Any]) -> str:
    """JSON with one schedule a line."""
    text = json.dumps(found, allow_nan=False)
    for mark in ('{"when"', '{"errors"'):
        text = re.sub(r'("\d+": ' + re.escape(mark) + ")", r"\n  \1", text)
    return text + "\n"


def _inputs(settings: RobustSettings) -> Inputs:
    seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + 2 * settings.objects)
    return load_inputs(find_checkpoint("mini").folder, seeds, settings.cache, settings.processes)


_settings: RobustSettings
_end: float


def _start(settings: RobustSettings, end: float) -> None:
    global _settings, _end  # one per process
    _settings, _end = settings, end
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # voxels close to the threshold


def _part(part: str) -> dict[str, Any]:
    settings, began = _settings, time.time()
    pipeline = Pipeline.from_pretrained(find_checkpoint("mini").folder, settings.device)
    first, last = CALIBRATION_SEED, 2 * settings.objects
    while not list(settings.cache.glob(f"inputs-{first}-{last}-*.npz")):
        time.sleep(0.2)
    inputs = _inputs(settings).to(pipeline.device)

    def said(text: str) -> None:
        log.info("%5.1f s %s: %s", time.time() - began, part, text)

    if part == "latent":
        found = _latent(pipeline, inputs, settings, said)
        return {"paths": {"slat": {"": _methods(found)}}, "evidence": {"slat": {"": _evidence(found)}}}
    names = [part] if part in SAMPLERS else [*SAMPLERS]
    problems = []
    for name in names:
        with SAMPLERS[name].on(pipeline):
            problems.append(structure_problem(pipeline, inputs.first(settings.objects), settings.seed, name))
    said("the baselines are there")
    power = ROBUST.get(part, 0.0)
    if power:
        scales = [_error_at(search([problem], AT, rounds=0), AT) for problem in problems]
        problems = [replace(problem, weight=scale**-power) for problem, scale in zip(problems, scales, strict=True)]
    judge = overlap_judge(pipeline, problems)
    check = 0.08 * 60 * settings.minutes * (2 + len(names))  # and for the search to end
    seconds = max(_end - check - time.time(), 1.0)
    found = search(
        problems, settings.most, beam=settings.beam, objective="worst", rounds=9, seconds=seconds, judge=judge,
        around=AROUND, progress=lambda share: said("dynamic programming is done") if share >= 1 else None,
    )  # fmt: skip
    said(", ".join(f"{calls}: {'/'.join(f'{e:.3f}' for e in path.errors)}" for calls, path in found.items()))
    evidence = _evidence(found)
    _check(pipeline, _rest(inputs, settings.objects), names, found, evidence, said)
    return {"paths": {"ss": {part: _methods(found)}}, "evidence": {"ss": {part: evidence}}}


def structure_problem(pipeline: Any, inputs: Inputs, seed: int, name: str, rows: int = 4096) -> Problem:
    """The baselines of the sparse structure under the sampler that is set."""
    bed = StructureBed(pipeline, inputs, [seed], len(inputs))
    generator = sam3d_of(pipeline).generator("ss")
    (solve,) = record(pipeline, lambda: bed.begin(generator), ("ss",), solve=False).values()
    return Problem.of([solve], name=name, rows_per_call=rows)


def overlap_judge(pipeline: Any, problems: Sequence[Problem]) -> Callable[[Prefix], float]:
    """The largest over the problems of weight x (1 - mean voxel IoU) of a complete schedule's ends."""
    decoder = sam3d_of(pipeline).structure_decoder()

    def occupied(problem: Problem, leaves: Sequence[Mapping[str, Tensor]]) -> Tensor:
        with torch.no_grad():
            return torch.cat([decode_structure(decoder, each[problem.leaf]).flatten(1) > 0 for each in leaves])

    bases = [occupied(problem, [group.states[-1] for group in problem.groups]) for problem in problems]
    known: WeakKeyDictionary[Prefix, float] = WeakKeyDictionary()

    def judge(path: Prefix) -> float:
        if path not in known:
            losses = []
            for problem, base, part in zip(problems, bases, path.solved, strict=True):
                own = occupied(problem, part.x)
                overlap = (own & base).sum(1) / (own | base).sum(1).clamp(min=1)
                losses.append(problem.weight * (1 - overlap.mean()))
            value = float(torch.stack(losses).amax())
            known[path] = value if np.isfinite(value) else np.inf
        return known[path]

    return judge


def _latent(
    pipeline: Any, inputs: Inputs, settings: RobustSettings, said: Callable[[str], None]
) -> dict[int, FoundPath]:
    """On the voxels of the pipeline's own sampler, all objects as one."""
    few = inputs.first(settings.voxel_objects)
    with OWN.on(pipeline):
        structures = StructureBed(pipeline, few, [settings.seed], len(few))
        occupied = structures.occupied(structures.solve(Method()))
    edge = pipeline.resolution
    voxels = [torch.argwhere(each.reshape(edge, edge, edge)) for each in occupied]
    bed = LatentBed(pipeline, few.slat, voxels, [settings.seed] * len(voxels), len(voxels))
    generator = sam3d_of(pipeline).generator("slat")
    (solve,) = record(pipeline, lambda: bed.begin(generator), ("slat",), solve=False).values()
    context, coords = solve.args
    with sam3d_of(pipeline).network("slat").keeping(context, coords):
        problem = Problem.of([solve])
    said(f"the baselines of {len(voxels)} objects are there, {sum(map(len, voxels))} voxels")
    with sam3d_of(pipeline).network("slat").keeping(context, coords):
        found = search(
            [problem], settings.most_latent, rounds=9, seconds=max(_end - 15 - time.time(), 1.0), around=AROUND_LATENT,
            progress=lambda share: said("dynamic programming is done") if share >= 1 else None,
        )  # fmt: skip
    said(", ".join(f"{calls}: {path.errors[0]:.3f}" for calls, path in found.items()))
    return found


def _check(
    pipeline: Any, inputs: Inputs, names: Sequence[str], found: Mapping[int, FoundPath],
    evidence: Mapping[int, dict[str, Any]], said: Callable[[str], None],
) -> None:  # fmt: skip
    """Add voxel IoU, pose drift and calls on other objects to the evidence, the most important schedules first."""
    order = [calls for calls in AROUND if calls in found]
    for name in names:
        with SAMPLERS[name].on(pipeline):
            bed = StructureBed(pipeline, inputs, [_settings.seed], len(inputs))
            base = bed.state(bed.solve(Method()))
            lines = []
            for calls in order:
                if time.time() > _end - 1:
                    break
                solved = bed.solve(Method(found[calls].method()))
                scores = {key: float(np.mean(value)) for key, value in bed.state(solved).against(base).items()}
                evidence[calls].setdefault("checked", {})[name] = {"calls": solved.calls, **scores}
                lines.append(f"{calls} ({solved.calls:g}): {scores['voxel_iou']:.4f}")
            said(f"checked under {name}: {', '.join(lines)}")


def _methods(found: Mapping[int, FoundPath]) -> dict[int, Any]:
    return {calls: path.method() for calls, path in found.items()}


def _evidence(found: Mapping[int, FoundPath]) -> dict[int, dict[str, Any]]:
    return {calls: {"errors": list(path.errors), "layout": path.plain["layout"]} for calls, path in found.items()}


def _rest(inputs: Inputs, first: int) -> Inputs:
    return Inputs(*(getattr(inputs, item.name)[first:] for item in fields(inputs)))


def _error_at(found: Mapping[int, FoundPath], calls: int) -> float:
    """Of the best schedule with at most so many calls."""
    return next(path.errors[0] for number, path in sorted(found.items(), reverse=True) if number <= calls)
