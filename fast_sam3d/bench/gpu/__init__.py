"""Time and memory of the full-size networks with random weights, measured within a time budget."""
