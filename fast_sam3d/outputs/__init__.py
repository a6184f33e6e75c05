"""Writing results: meshes, gaussians, poses, and result folders that appear complete or not at all."""
