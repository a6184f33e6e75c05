"""SAM 3D Objects in plain PyTorch, at any size: networks, flow matching, decoders and the pipeline."""
