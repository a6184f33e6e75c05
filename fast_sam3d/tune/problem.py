"""What a schedule is calibrated on: the baseline's solves of some objects in one stage, under one sampler.

    solves = [collect(pipeline, item)["ss"] for item in objects]
    found = path_search.search([Problem.of(solves)], most=30)  # the best schedule for every number of calls

Several samplers at once: `collect(..., stages=["ss"], solve=False)`, and a problem of `solve.under(...)` for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.adapters.memory import residency_of
from fast_sam3d.adapters.solves import RecordedSolve, merged, record
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.run.object import RunSettings, call_pipeline
from fast_sam3d.sampling.step import Leaves
from fast_sam3d.serial import one_at_a_time

__all__ = ["Problem", "collect"]

STAGES = ("ss", "slat")


@one_at_a_time()
def collect(
    pipeline: Any, item: BenchObject, seed: int = 42, stages: Sequence[str] = STAGES, solve: bool = True
) -> dict[str, RecordedSolve]:
    """The baseline's solves of one object, by stage; nothing is decoded to meshes or gaussians.

    Args:
        pipeline: a SAM 3D pipeline without acceleration.
        item: the object.
        seed: of the run.
        stages: to record.
        solve: False: the last stage's solve is not run, only its condition computed (`RecordedSolve.solved`, `under`).

    Raises:
        FastSam3dError: the pipeline is accelerated, or a state is not finite, which names the object.
    """
    inner, given = adapt(pipeline).pipeline, item.given
    residency = residency_of(inner)
    if residency is not None:
        residency.clear()

    settings = RunSettings(seed, refine_pose=False)

    def run() -> None:
        call_pipeline(inner, given.image, given.mask, given.pointmap, settings)

    found = record(inner, run, stages, solve)
    for stage, solved in found.items():
        require_finite(item.name, stage, solved)
    return found


def require_finite(name: str, stage: str, solve: RecordedSolve) -> None:
    """Raises FastSam3dError, which names the object and the step, where a state of the baseline is not finite."""
    for step, state in enumerate(solve.states):
        if not all(bool(torch.isfinite(leaf).all()) for leaf in state.values()):
            raise FastSam3dError(
                f"calibration: object {name}: the baseline's state is not finite after step {step} of {stage}: leave "
                "the object out, run in float32 or bfloat16, or check the weights"
            )


@dataclass(frozen=True, eq=False)
class Problem:
    """The baseline's solves of some objects in one stage, under one sampler.

    Args:
        groups: solves with their states; the objects of each are solved as one batch.
        weight: of its errors against those of other problems.
        name: of the sampler, in messages.
        rows_per_call: objects in one call of the network at most.
    """

    groups: Sequence[RecordedSolve]
    weight: float = 1.0
    name: str = ""
    rows_per_call: int = 256
    calls_made: list[int] = field(default_factory=lambda: [0])
    """Network calls so far, one for each object."""

    @classmethod
    def of(cls, solves: Sequence[RecordedSolve], **options: Any) -> Problem:
        """Of single objects; those of a sparse structure become one batch where their conditions allow.

        Args:
            solves: not solved yet ones are solved here.
            options: further fields.
        """
        groups = list(solves)
        if solves[0].stage.coords is None and len({solve.condition_shapes for solve in solves}) == 1:
            groups = [merged(solves)]
        return cls([group if group.states else group.solved() for group in groups], **options)

    @property
    def stage(self) -> str:
        """ "ss" or "slat"."""
        return self.groups[0].stage.name

    @property
    def leaf(self) -> str:
        """The leaf that schedules are chosen by: the shape, or the features of the voxels."""
        return self.groups[0].stage.bare

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The other leaves: the layout."""
        return tuple(name for name in self.groups[0].leaves if name != self.leaf)

    @cached_property
    def grid(self) -> list[float]:
        """[steps + 1] times."""
        return self.groups[0].grid

    @property
    def steps(self) -> int:
        """Of the baseline."""
        return len(self.grid) - 1

    @cached_property
    def calls(self) -> list[int]:
        """[steps] network calls of each step."""
        return self.groups[0].calls

    @property
    def guided(self) -> int:
        """Steps up to the last with guidance; 0 without any."""
        return max((step + 1 for step, calls in enumerate(self.calls) if calls > 1), default=0)

    @property
    def rescale_t(self) -> float:
        """That of the grid t = s / (s + rescale_t (1 - s)), s uniform; 1: uniform."""
        s, t = 1 / self.steps, self.grid[1]
        return round(s * (1 - t) / (t * (1 - s)), 4) if self.steps > 1 else 1.0

    @property
    def objects(self) -> int:
        """How many there are."""
        return sum(group.objects for group in self.groups)

    @cached_property
    def sizes(self) -> list[Tensor]:
        """[groups] of [objects], squared length of the main leaf at t = 1."""
        return [group.states[-1][self.leaf].flatten(1).square().sum(1) for group in self.groups]

    def part(self, objects: Sequence[int]) -> Problem:
        """Some of its objects, by their numbers."""
        groups, first = [], 0
        for group in self.groups:
            inside = [number - first for number in objects if first <= number < first + group.objects]
            first += group.objects
            if inside:
                groups.append(group.some(inside))
        return replace(self, groups=groups)

    def velocities(self, states: Sequence[Sequence[Leaves]], step: int) -> list[list[Leaves]]:
        """Velocities of several states, each [groups] of leaves, all at one step."""
        found: list[list[Leaves]] = [[] for _ in states]
        for number, group in enumerate(self.groups):
            per_call = 1 if group.stage.coords is not None else max(self.rows_per_call // group.objects, 1)
            for first in range(0, len(states), per_call):
                part = [state[number] for state in states[first : first + per_call]]
                together = {name: torch.cat([leaves[name] for leaves in part]) for name in part[0]}
                v = {name: leaf.split(group.objects) for name, leaf in group.velocity(together, step).items()}
                for i in range(len(part)):
                    found[first + i].append({name: leaf[i] for name, leaf in v.items()})
        self.calls_made[0] += len(states) * self.objects * self.calls[step]
        return found
