"""Observe a pipeline without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fast_sam3d.adapters import adapt
from fast_sam3d.install import install, methods_on, schedule_on
from fast_sam3d.serial import one_at_a_time
from fast_sam3d.telemetry import Progress, Report, SolveRecord

__all__ = ["Progress", "Report", "SolveRecord", "observe"]


@contextmanager
def observe(pipeline: Any, progress: Progress | None = None, report: Report | None = None) -> Iterator[Report]:
    """Report what a pipeline's runs cost, accelerated or not, without changing their results by a bit.

    Runs of other threads on the same pipeline count as well; `run_object` reports its own run alone.

    Args:
        pipeline: of SAM 3D Objects, TRELLIS or TRELLIS.2, or an object that holds one in `_pipeline`.
        progress: receives every step and stage.
        report: an earlier one of the same object that is continued, after a run that stopped.

    Yields:
        the report, filled while the pipeline runs. Its `methods` are those of the acceleration on the pipeline.

    Raises:
        NotAPipelineError: `pipeline` is not one.
    """
    adapter = adapt(pipeline)
    with one_at_a_time():
        if report is None:
            report = Report(methods_on(adapter), progress, schedule_on(adapter))
        patch = install(adapter, report)
    try:
        yield report
    finally:
        with one_at_a_time():
            patch.remove()
