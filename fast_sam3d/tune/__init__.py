"""Tuning on the user's pipeline: the fastest settings with a drift below a share of the seed noise."""
