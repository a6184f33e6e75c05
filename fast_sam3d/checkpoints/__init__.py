"""Checkpoints: find, load, download, check, and diagnose the installation."""
