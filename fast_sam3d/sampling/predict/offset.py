"""The difference of velocity and state is reused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.predict.base import Predict
from fast_sam3d.sampling.step import LeafEvaluation


@dataclass(frozen=True, slots=True)
class Offset(Predict):
    """The state plus what the network added to it at the last evaluation: x + (v - x) of then.

    Source: Fast-SAM3D (arXiv 2602.05293) section 3.3 for the structured latent; EasyCache (arXiv 2507.02860).
    """

    name: ClassVar[str] = "offset"

    def __call__(self, history: History[LeafEvaluation], t: float, x: Tensor) -> Tensor:
        """See `Predict`."""
        last = history[0]
        return x + (last.v - last.x)
