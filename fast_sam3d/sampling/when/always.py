"""Every step is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.sampling.guide.base import Guidance
from fast_sam3d.sampling.when.base import Decide, When


@dataclass(frozen=True, slots=True)
class Always(When):
    """Every step."""

    name: ClassVar[str] = "always"
    same_for_all_objects: ClassVar[bool] = True

    def start(self, times: Sequence[float], guidance: Guidance | None = None) -> Decide:
        """See `When`."""
        return lambda step, history, x: True
