"""The interface of token choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.part import Part
from fast_sam3d.sampling.step import Evaluation
from fast_sam3d.sampling.tokens import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Some tokens enter the network, and the others take over their results.

    Args:
        index: [K] int64 ascending, the tokens that enter.
        source: [N] int64 in 0..K-1, the entered token that each token takes its result from.
    """

    index: Tensor
    source: Tensor

    def spread(self, x: Tensor, fresh: Tensor, t: float) -> Tensor:
        """The velocity of all tokens.

        What is copied is the predicted data, x + (1 - t) v. A velocity is data minus noise, and every token has its own
        noise, which a copied velocity would leave in it.

        Args:
            x: [1, N, C] states. fresh: [1, K, C] velocities of those that entered. t: time, below 1.

        Returns:
            [1, N, C].
        """
        data = x[:, self.index] + (1 - t) * fresh
        velocity = (data[:, self.source] - x) / (1 - t)
        velocity[:, self.index] = fresh
        return velocity


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """All tokens enter the network, but some keep their last velocity.

    Args:
        mask: [N] bool, those that keep it, of the leaf that holds the shape.
    """

    mask: Tensor


Choose: TypeAlias = Callable[[int, History[Evaluation]], Tensor | Merged | Held | None]


class Where(Part):
    """A choice of the tokens that the network evaluates. The state of a solve is in `start`'s result.

    Attributes:
        needs_tokens: it fits only a stage with voxels as tokens.
        needs_decoder: it fits only a stage whose state can be decoded to occupancy in mid-solve.
    """

    __slots__ = ()
    needs_tokens: ClassVar[bool] = False
    needs_decoder: ClassVar[bool] = False

    def start(self, tokens: Tokens | None) -> Choose:
        """Begin a solve.

        Args:
            tokens: the solve's tokens; None where they are unknown.

        Returns:
            (step, history) -> [K] int64 ascending indices of the tokens that enter the network, the others keep their
            last velocity; or `Merged`, or `Held`; None: all enter. The history is in float32 or better. Called at every
            evaluated step between the first and the last.
        """
        raise NotImplementedError
