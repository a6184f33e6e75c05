"""What runs cost, and how it is measured."""

from fast_sam3d.telemetry.records import NOT_FINITE, AggregationRecord, Progress, SolveRecord, StepRecord, unseen
from fast_sam3d.telemetry.report import Report, SolveLog, peak_device_bytes, peak_host_bytes
from fast_sam3d.telemetry.seam import StageSeam

__all__ = [
    "NOT_FINITE",
    "AggregationRecord",
    "Progress",
    "Report",
    "SolveLog",
    "SolveRecord",
    "StageSeam",
    "StepRecord",
    "peak_device_bytes",
    "peak_host_bytes",
    "unseen",
]
