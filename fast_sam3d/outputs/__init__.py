"""Results on disk: gaussians, meshes, poses, and folders that appear complete or not at all."""

from fast_sam3d.outputs.files import save_json
from fast_sam3d.outputs.gaussians import load_gaussians_ply, save_gaussians_ply
from fast_sam3d.outputs.meshes import load_glb, mesh_to_trimesh, save_glb
from fast_sam3d.outputs.pose import save_pose_json

__all__ = [
    "load_gaussians_ply",
    "load_glb",
    "mesh_to_trimesh",
    "save_gaussians_ply",
    "save_glb",
    "save_json",
    "save_pose_json",
]
