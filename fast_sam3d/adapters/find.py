"""The adapter of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fast_sam3d.adapters import sam3d, trellis
from fast_sam3d.adapters.base import Adapter, NotAPipelineError, unwrap

__all__ = ["adapt", "presets_of", "sam3d_of"]


def adapt(pipeline: Any) -> Adapter:
    """Adapt a pipeline, or an object that holds one in `_pipeline` (the stock notebook's `Inference`).

    Raises:
        NotAPipelineError: neither has the interface of a model that is known, and the message says what was looked
            for; or the pipeline is that of the Fast-SAM3D fork.
    """
    inner = unwrap(pipeline)
    if (table := trellis.table_of(inner)) is not None:
        return trellis.Trellis(inner, table)
    if lacks := sam3d.missing(inner):
        raise NotAPipelineError(
            f"{type(pipeline).__name__} is not a pipeline of SAM 3D Objects or TRELLIS and holds none in `_pipeline`: "
            f"looked for {', '.join(lacks)}; give the object that load_pipeline or the model's own loader returned"
        )
    sam3d.refuse_fork(inner)
    return sam3d.Sam3d(inner)


def presets_of(model: str) -> Mapping[str, str]:
    """Name of a preset -> the preset of a model that it stands for, as `Adapter.presets`; model: "sam3d", "trellis"."""
    return trellis.PRESETS if model == "trellis" else {}


def sam3d_of(pipeline: Any) -> sam3d.Sam3d:
    """The adapter of a pipeline of SAM 3D Objects.

    Raises:
        NotAPipelineError: it is of another model.
    """
    adapter = adapt(pipeline)
    if not isinstance(adapter, sam3d.Sam3d):
        raise NotAPipelineError(f"{type(adapter.pipeline).__name__} is not a pipeline of SAM 3D Objects: give one")
    return adapter
