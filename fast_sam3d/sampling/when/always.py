"""No step is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.when.base import Decide


@dataclass(frozen=True, slots=True)
class Always:
    """Every step."""

    depth: ClassVar[int] = 1

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        return lambda step, history, x: True
