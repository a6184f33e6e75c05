"""Find, download, verify and load checkpoints."""
