"""Procedural objects that the embedded model is trained and judged on."""
