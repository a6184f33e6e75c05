"""Running one object: the call of the pipeline, memory fallbacks, progress and worker processes."""
