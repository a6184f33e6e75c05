"""Where does the network run, on which tokens?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fast_sam3d.solve.history import History
from fast_sam3d.solve.step import Evaluation


class Where(Protocol):
    """A choice of tokens at an evaluated step."""

    def __call__(self, history: History[Evaluation]) -> Tensor | None:
        """[K] int64 indices of the tokens that enter the network; None: all of them."""
        ...


@dataclass(frozen=True, slots=True)
class All:
    """Every token."""

    def __call__(self, history: History[Evaluation]) -> Tensor | None:
        """See `Where`."""
        return None


WHERE: dict[str, type[Where]] = {"all": All}
"""Choices by their name in a configuration."""
