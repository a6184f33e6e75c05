"""Refinement of an object's pose against its mask and pointmap."""
