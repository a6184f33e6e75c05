"""Calibration on the user's pipeline: at which steps of the samplers the networks have to run."""
