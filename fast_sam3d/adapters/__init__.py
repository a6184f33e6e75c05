"""Adapters find the parts of a pipeline; no other package knows its attribute paths."""

from fast_sam3d.adapters.base import Adapter, NotAPipelineError, unwrap
from fast_sam3d.adapters.find import adapt, presets_of, sam3d_of

__all__ = ["Adapter", "NotAPipelineError", "adapt", "presets_of", "sam3d_of", "unwrap"]
