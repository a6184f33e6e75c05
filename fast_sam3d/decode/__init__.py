"""Spectral-aware token aggregation: voxels are merged by the high-frequency content of the object.

`spectrum` and `aggregate` are pure functions; `hooks` applies them to the stages of a pipeline.
"""

from fast_sam3d.decode.aggregate import MeshMethod, build_mesh_method

__all__ = ["MeshMethod", "build_mesh_method"]
