"""Procedural objects on which the embedded model is trained and evaluated."""
