"""All tokens are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.sampling.tokens import Tokens
from fast_sam3d.sampling.where.base import Choose, Where


@dataclass(frozen=True, slots=True)
class All(Where):
    """Every token."""

    name: ClassVar[str] = "all"
    same_for_all_objects: ClassVar[bool] = True

    def start(self, tokens: Tokens | None) -> Choose:
        """See `Where`."""
        return lambda step, history: None
