"""No token is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where.base import Choose


@dataclass(frozen=True, slots=True)
class All:
    """Every token."""

    needs_tokens: ClassVar[bool] = False
    needs_decoder: ClassVar[bool] = False
    depth: ClassVar[int] = 1

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        return lambda step, history: None
