"""Cameras, poses and gaussian clouds as plain numpy arrays."""
