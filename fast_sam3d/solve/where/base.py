"""What a choice of tokens is."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias

from torch import Tensor

from fast_sam3d.solve.history import History
from fast_sam3d.solve.step import Evaluation
from fast_sam3d.solve.tokens import Tokens

Choose: TypeAlias = Callable[[int, History[Evaluation]], Tensor | None]


class Where(Protocol):
    """Settings of a choice of tokens; what it must remember during a solve lives in the function that `start` returns.

    `needs_tokens`: it only serves a stage whose tokens are voxels.
    """

    needs_tokens: ClassVar[bool]

    @property
    def depth(self) -> int:
        """Evaluations that the choice looks back on."""
        ...

    def start(self, tokens: Tokens | None) -> Choose:
        """Begin a solve.

        Args:
            tokens: what is known of the solve's tokens; None where they are not voxels.

        Returns:
            (step, history) -> [K] int64 ascending indices of the tokens that enter the network; None: all of them.
            Called at every evaluated step between the first and the last.
        """
        ...
