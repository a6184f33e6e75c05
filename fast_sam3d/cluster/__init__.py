"""`--engine ray`: scenes spread over the processes of a Ray cluster. Ray is imported when it is asked for."""
