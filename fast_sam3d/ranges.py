"""Checks that the settings of methods share."""

from __future__ import annotations

import math
from typing import Any

from fast_sam3d.errors import ConfigError


def whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuse anything but a whole number from `low` to `high` (None: no upper end)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        span = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value!r}: give a whole number {span}")


def number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse anything but a number from `low` to `high`, both included."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}: give a number from {low:g} to {high:g}")
