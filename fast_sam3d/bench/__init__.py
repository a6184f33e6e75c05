"""Methods against each other on the same objects and seeds: run in turns, kept row by row, told with their errors."""
