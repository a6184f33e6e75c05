"""Sparse structures that are sampled in one batch before their objects' own runs, and what each report counts of it.

Reports that are on the pipeline during the batch count it then: its seconds, every network call once, and the steps of
each object. The report of one object's run, which begins later, counts that object's even share of seconds and calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.report import observe
from fast_sam3d.sampling.driver import method_on, reports_on
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.serial import one_at_a_time
from fast_sam3d.telemetry import Report

if TYPE_CHECKING:
    from fast_sam3d.model.batch import BatchedStructure

__all__ = ["Solved", "solve_structures"]


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """One object's sparse structure of a batch; what `CommonStages.solved_ahead` holds.

    Args:
        structure: the object's part of the batch.
        solver: that sampled it.
        method: of the acceleration that was on the solver.
        batch: report of the whole batch.
        objects: of the batch.
        counted: the reports that counted the batch while it was solved.
    """

    structure: BatchedStructure
    solver: object
    method: StageMethod | None
    batch: Report
    objects: int
    counted: Sequence[Report]

    @property
    def voxels(self) -> int:
        """That the latents decode to, which predicts how long the rest of the run takes."""
        return self.structure.voxels

    def latents_for(self, sampler: Any, condition: Tensor) -> Mapping[str, Tensor] | None:
        """The latents, if this run would sample the same ones; reports that have not counted them get their share."""
        if method_on(self.solver) != self.method:
            return None
        latents = self.structure.latents_for(sampler, condition)
        if latents is not None:
            for report in reports_on(self.solver):
                if not any(report is other for other in self.counted):
                    report.add_shared("ss", self.structure.times, self.batch, self.objects)
        return latents


@one_at_a_time()
def solve_structures(
    pipeline: Any, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
) -> list[Solved]:
    """Sample the sparse structures of several objects in one batch; see `model.batch.sample_structures`.

    Returns:
        One per object; none where the sampler's method may decide differently for different objects.
    """
    solver = adapt(pipeline).solver("ss")
    method = method_on(solver)
    if method is not None and not method.same_for_all_objects:
        return []
    with observe(pipeline) as batch, contextlib.ExitStack() as stack:
        reports = reports_on(solver)
        for report in reports:
            stack.enter_context(report.stage("ss"))
        structures = pipeline.sample_structures(objects, seed, inference_steps)
        for report in reports if structures else ():
            report.solves[-1].objects = len(structures)
    if not structures or batch.solves[0].fallbacks:
        return []  # a prediction was not finite, for one object, and all were evaluated
    return [Solved(structure, solver, method, batch, len(structures), reports) for structure in structures]
