"""Overrides before they are parsed: bounded in length, depth, digits and references."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from fast_sam3d.documents import limits
from fast_sam3d.documents.files import check_text
from fast_sam3d.errors import ConfigError

__all__ = ["check_overrides", "shown"]

LONGEST: Final = 8_192
"""Characters of an override. A path has at most 4,096; Hydra's parser needs 1 s for a list of 8,192."""

_LONG: Final = re.compile(rf"[\d_]{{{limits.DIGITS + 1}}}")
_STEPS: Final = {**dict.fromkeys("[{(", 1), **dict.fromkeys("]})", -1)}


def check_overrides(overrides: Iterable[str]) -> None:
    """Refuse overrides that are over a limit.

    Raises:
        ConfigError: names the first of them, and the limit.
    """
    references = 0
    for override in overrides:
        if len(override) > LONGEST:
            raise ConfigError(f"the override {shown(override)} has more than {LONGEST} characters: give a file instead")
        if max(accumulate(_STEPS.get(letter, 0) for letter in override), default=0) > limits.DEPTH:
            raise ConfigError(f"the override {shown(override)} nests more than {limits.DEPTH} deep: close its brackets")
        if _LONG.search(override):
            raise ConfigError(f"the override {shown(override)} has more than {limits.DIGITS} digits: give a number")
        try:
            check_text(override)
        except limits.OverLimitError as reason:
            raise ConfigError(f"the override {shown(override)} {reason}: leave it out") from None
        references += override.count("${")
    if references > limits.REFERENCES:
        raise ConfigError(f"the overrides have more than {limits.REFERENCES} references (${{...}}): write values out")


def shown(override: str) -> str:
    """An override in quotes, cut after 80 characters, on one line."""
    return ascii(override[:80])[:-1] + ("…'" if len(override) > 80 else "'")
