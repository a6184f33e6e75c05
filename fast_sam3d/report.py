"""Watching a pipeline: `observe`, and the `Report` that it fills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fast_sam3d.adapters import adapt
from fast_sam3d.install import install
from fast_sam3d.telemetry import Progress, Report, SolveRecord

__all__ = ["Progress", "Report", "SolveRecord", "observe"]


@contextmanager
def observe(pipeline: Any, progress: Progress | None = None) -> Iterator[Report]:
    """Watch a pipeline, accelerated or not, without changing its result by a bit.

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`.
        progress: told of every step and stage.

    Yields:
        the report, which fills while the pipeline runs.

    Raises:
        NotAPipelineError: not such an object.
    """

    report = Report(progress=progress)
    patch = install(adapt(pipeline), report)
    try:
        yield report
    finally:
        patch.remove()
