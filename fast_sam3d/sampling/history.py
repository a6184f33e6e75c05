"""The last few evaluations of one solve, newest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.step import Evaluation, LeafEvaluation
from fast_sam3d.sampling.syncs import Syncs

E = TypeVar("E", bound="Evaluation | LeafEvaluation")


class History(Generic[E]):
    """Evaluations in the order newest to oldest, no two at the same time; the oldest are dropped beyond `depth`.

    Args:
        depth: how many are kept, at least 1. More keeps more velocities in memory.
        evaluations: to start with, newest first.
        syncs: of the solve, through which its methods read values of tensors.
        number: see the attribute; None: as many as are given.
        times: the grid of the solve; () where it is unknown.
        guidance: the pipeline's in this solve; None where it has none.

    Attributes:
        number: of the newest evaluation in the solve, from 1 on; a schedule that leaves out planned ones counts them.
    """

    def __init__(
        self,
        depth: int,
        evaluations: Sequence[E] = (),
        syncs: Syncs | None = None,
        number: int | None = None,
        times: Sequence[float] = (),
        guidance: Guidance | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}: a history keeps at least 1 evaluation")
        self.depth = depth
        self.syncs = Syncs() if syncs is None else syncs
        self.number = len(evaluations) if number is None else number
        self.times = times
        self.guidance = guidance
        self._evaluations: list[E] = list(evaluations[:depth])

    def push(self, evaluation: E) -> None:
        """Add the newest; it replaces the present newest when both are at the same time."""
        self.number += 1
        # Equal times would divide by zero in every difference.
        if self._evaluations and self._evaluations[0].t == evaluation.t:
            self._evaluations[0] = evaluation
        else:
            self._evaluations.insert(0, evaluation)
            del self._evaluations[self.depth :]

    def __getitem__(self, index: int) -> E:
        return self._evaluations[index]

    def __len__(self) -> int:
        return len(self._evaluations)

    def __iter__(self) -> Iterator[E]:
        return iter(self._evaluations)


def leaf_history(history: History[Evaluation], name: str) -> History[LeafEvaluation]:
    """A history as the leaf `name` sees it."""
    seen = [LeafEvaluation(e.t, e.x[name], e.v[name]) for e in history]
    return History(history.depth, seen, history.syncs, history.number, history.times, history.guidance)
