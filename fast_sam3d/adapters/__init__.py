"""What the rest of the package must know of a pipeline, and where it is found. Only adapters know attribute paths."""

from fast_sam3d.adapters.sam3d import NotAPipelineError, Sam3d, adapt

__all__ = ["NotAPipelineError", "Sam3d", "adapt"]
