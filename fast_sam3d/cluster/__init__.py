"""`--engine ray`: scenes processed by the workers of a Ray cluster. Ray is imported only if it is requested."""
