"""Of pipelines whose weights come and go by a memory plan, as those of the native runtime; all others have none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["remembering", "residency_of"]


def residency_of(pipeline: Any) -> Any:
    """Where the weights of a pipeline are (`fast_sam3d.native.residency.Residency`); None where they always are."""
    return getattr(pipeline, "residency", None)


def remembering(pipeline: Any, replay: Any) -> AbstractContextManager[None]:
    """A block in which a pipeline with a memory plan keeps the results of its stages in a replay, and takes them."""
    return nullcontext() if residency_of(pipeline) is None else pipeline.remembering(replay)
