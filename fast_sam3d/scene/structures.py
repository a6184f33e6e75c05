"""Sparse structures that are sampled in one batch before their objects' own runs, with the records of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fast_sam3d.adapters import adapt
from fast_sam3d.report import observe
from fast_sam3d.sampling.batch import decides_alike, method_on, tell
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.telemetry import StepRecord

if TYPE_CHECKING:
    from fast_sam3d.model.batch import BatchedStructure

__all__ = ["Solved", "solve_structures"]


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """One object's sparse structure of a batch; what `MiniPipeline.solved_ahead` holds.

    Args:
        structure: the object's part of the batch.
        solver: that sampled it.
        method: of the acceleration that was on the solver.
        records: of the steps.
    """

    structure: BatchedStructure
    solver: object
    method: StageMethod | None
    records: Sequence[StepRecord]

    @property
    def voxels(self) -> int:
        """That the latents decode to, which predicts how long the rest of the run takes."""
        return self.structure.voxels

    def latents_for(self, sampler: Any, condition: Tensor) -> Mapping[str, Tensor] | None:
        """The latents, if this run would sample the same ones; the reports on the solver then get its steps."""
        if method_on(self.solver) != self.method:
            return None
        latents = self.structure.latents_for(sampler, condition)
        if latents is not None:
            tell(self.solver, self.structure.times, self.records)
        return latents


def solve_structures(
    pipeline: Any, objects: Sequence[tuple[Any, Any, Any]], seed: int, inference_steps: int | None = None
) -> list[Solved]:
    """Sample the sparse structures of several objects in one batch; see `model.batch.sample_structures`.

    Returns:
        One per object; none where the sampler's method may decide differently for different objects.
    """
    solver = adapt(pipeline).solver("ss")
    method = method_on(solver)
    if not decides_alike(method):
        return []
    with observe(pipeline) as report:
        structures = pipeline.sample_structures(objects, seed, inference_steps)
    if not structures or report.solves[0].fallbacks:
        return []  # a prediction was not finite, for one object, and all were evaluated
    return [Solved(structure, solver, method, report.solves[0].steps) for structure in structures]
