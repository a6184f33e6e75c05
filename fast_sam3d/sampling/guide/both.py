"""Both calls of guidance, unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fast_sam3d.sampling.guide.base import Guide
from fast_sam3d.sampling.syncs import Syncs


@dataclass(frozen=True, slots=True)
class Both(Guide):
    """Both calls, whenever the pipeline asks for them."""

    name: ClassVar[str] = "both"
    same_for_all_objects: ClassVar[bool] = True

    def start(self, syncs: Syncs | None = None) -> None:
        """See `Guide`."""
        return None
