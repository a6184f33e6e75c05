"""Shared layout of contact sheets: sizes, colours, font."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BACKGROUND", "GAP_PX", "INK", "LABEL_PX", "PANEL", "eight_bit", "label_font", "wrapped"]

GAP_PX, LABEL_PX, FONT_PX = 14, 24, 15
BACKGROUND = (255, 255, 255)
PANEL = (241, 242, 244)  # light grey behind the views, so that white objects stay visible
INK = (60, 64, 70)


def eight_bit(rgb: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert [0, 1] to uint8 0..255."""
    return np.round(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)


def label_font(size: int = FONT_PX) -> Any:
    """Font of the captions."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=size)
    except (TypeError, OSError):  # Pillow before 10.1, or built without FreeType: a small bitmap font
        return ImageFont.load_default()


def wrapped(text: str, width: int, font: Any) -> list[str]:
    """The lines of a text that fit into a width in pixels, broken between words."""
    lines: list[str] = []
    for word in text.encode("latin-1", "replace").decode("latin-1").split():  # what the small bitmap font has
        if lines and font.getlength(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
