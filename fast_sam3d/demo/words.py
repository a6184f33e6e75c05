"""Sentences for the command line, in words of the page."""

from __future__ import annotations

import re

__all__ = ["in_page"]

CONTROLS = {
    r" with --mask_path and --mask_label": ' with "label of the object"',
    r" with --mask_label": ' with "label of the object"',
    r"--mask_label": '"label of the object"',
    r"--mask_threshold (?=\d)": "a mask threshold of ",
    r"--mask_threshold": '"mask threshold"',
    r"--pointmap_axes (?=\w+,)": '"axes": ',
    r"--pointmap_axes": '"axes"',
    r" with --no_pointmap": "",
    r"use --no_pointmap": "leave it out",
}
"""What the page has in place of a flag of the command line."""


def in_page(text: str) -> str:
    """A sentence for the command line, in words of the page."""
    for flag, control in CONTROLS.items():
        text = re.sub(flag, control, text)
    return text
