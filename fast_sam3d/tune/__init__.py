"""Calibration on the user's own pipeline: the fastest settings whose drift stays within a share of the seed noise."""
