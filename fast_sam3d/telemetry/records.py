"""Records of steps, solves and token aggregation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Progress = Callable[[str, int, int], None]
"""(stage, steps done, steps in all); a stage without steps counts 0 of 1 and 1 of 1."""


def unseen(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing; with one, the bars of samplers that draw their own stay off."""


NOT_FINITE = (
    "the sampled latents are not finite (NaN or infinite), so the object is not to be used; in half precision try "
    "float32 or bfloat16, and check the weights"
)
"""Remark on a solve."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The cost of one step, measured where the network is called.

    Args:
        step: 0 for the first.
        t: time at the step's start.
        evaluated: the network ran; False: the velocity was predicted.
        network_calls: including the unconditional ones of guidance.
        network_calls_saved: those that a prediction or the guidance method saved.
        tokens: tokens that the network processed in one call; 0 when predicted.
        fallback: the prediction was not finite, so the last velocity was held; known once the solve is complete.
        syncs: how often the method made the host wait for the device (`fast_sam3d.sampling.syncs`).
        layout: the network ran on the layout's tokens alone; not among the network calls.
    """

    step: int
    t: float
    evaluated: bool
    network_calls: int
    network_calls_saved: int
    tokens: int
    fallback: bool = False
    syncs: int = 0
    layout: bool = False


@dataclass(frozen=True, slots=True)
class AggregationRecord:
    """Token aggregation of one object.

    Args:
        factor: by which its voxels were merged along each axis; 1: not at all.
        picture, shape: high-frequency ratios in 0..1, None where undefined.
        voxels, kept: number of voxels before and after.
    """

    factor: float
    picture: float | None
    shape: float | None
    voxels: int
    kept: int


@dataclass
class SolveRecord:
    """One solve.

    Args:
        stage: "ss" or "slat".
        steps_planned: steps of the time grid.
        steps: taken so far, in order.
        complete: the last step was taken; False after an abort.
        context_bytes: memory of the context's cached keys and values during the solve.
        layout_bytes: the most memory of the shape's keys and values that the layout was evaluated against.
        syncs: as in a step, those at the start and at the end of the solve included.
        finite: whether all values of the final state are; None after an abort, or where unknown.
        objects: sampled together in this solve. A report counts the steps of each, and the network calls once.
        shared_by: objects of the batch that this solve was part of. A report of one of them counts its own steps, and
            an even share, 1 / shared_by, of the batch's network calls.
    """

    stage: str
    steps_planned: int
    steps: list[StepRecord] = field(default_factory=list)
    complete: bool = False
    context_bytes: int = 0
    layout_bytes: int = 0
    syncs: int = 0
    finite: bool | None = None
    objects: int = 1
    shared_by: int = 1

    @property
    def calls(self) -> int:
        """Network calls made; those of a batch are for all its objects."""
        return sum(step.network_calls for step in self.steps)

    @property
    def saved(self) -> int:
        """Network calls that predictions and the guidance method saved."""
        return sum(step.network_calls_saved for step in self.steps)

    @property
    def evaluated(self) -> list[int]:
        """The steps at which the network ran."""
        return [step.step for step in self.steps if step.evaluated]

    @property
    def layout_evaluations(self) -> int:
        """Steps at which the network ran on the layout's tokens alone."""
        return sum(step.layout for step in self.steps)

    @property
    def fallbacks(self) -> int:
        """Predictions that were not finite, so that the last velocity was held instead."""
        return sum(step.fallback for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "stage": self.stage,
            "steps_planned": self.steps_planned,
            "complete": self.complete,
            "objects": self.objects,
            "shared_by": self.shared_by,
            "network_calls": self.calls,
            "network_calls_saved": self.saved,
            "evaluated": self.evaluated,
            "fallbacks": self.fallbacks,
            "context_bytes": self.context_bytes,
            "layout_evaluations": self.layout_evaluations,
            "layout_bytes": self.layout_bytes,
            "syncs": self.syncs,
            "finite": self.finite,
            "steps": [asdict(step) for step in self.steps],
        }
