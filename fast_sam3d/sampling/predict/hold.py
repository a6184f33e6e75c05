"""The velocity stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Hold:
    """The last evaluated velocity."""

    depth: ClassVar[int] = 1

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        return history[0].v
