"""SAM 3D Objects in plain PyTorch: the published networks and stages, filled from the user's own weights."""
