"""Comparison of methods on the same objects and seeds: alternating runs, resumable, with standard errors."""
