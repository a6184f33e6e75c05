"""The Hydra configuration: composing, validating, the catalogue of methods, and the packaged files."""
