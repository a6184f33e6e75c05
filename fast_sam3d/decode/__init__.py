"""What a shape's spectrum says about the resolution that it needs, and decoding at that resolution.

`spectrum` and `aggregate` are pure; `around` goes around the parts of a pipeline.
"""

from fast_sam3d.decode.aggregate import MeshMethod, build_mesh_method

__all__ = ["MeshMethod", "build_mesh_method"]
