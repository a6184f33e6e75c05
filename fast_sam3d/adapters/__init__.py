"""Adapters find the parts of a pipeline; no other package knows its attribute paths."""

from fast_sam3d.adapters.sam3d import NotAPipelineError, Sam3d, adapt, unwrap

__all__ = ["NotAPipelineError", "Sam3d", "adapt", "unwrap"]
