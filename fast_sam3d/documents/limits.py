"""Limits of what is read, with their reasons."""

from __future__ import annotations

from typing import Final

CONFIG_BYTES: Final = 256 << 10
"""Of a YAML text. The published configurations have at most 8 KB, files of `tune` 20 KB; PyYAML reads 200 KB/s."""

RECORD_BYTES: Final = 32 << 20
"""Of a JSON text, unless the caller names another limit. The results of the longest benches have 1 MB."""

DEPTH: Final = 50
"""Of nested lists and mappings. The published configurations have 8; whatever walks the result may recurse."""

VALUES: Final = 20_000
"""Of a YAML text with its aliases written out; 64 characters of a text count as one value. Files of `tune` have 2,000;
OmegaConf needs 2 s for so many."""

REFERENCES: Final = 12
"""Of `${...}` in one configuration. References to references multiply: twelve give at most 81 copies of a value."""

REFERRING: Final = 2_000
"""Values of a YAML text with references, each of which may copy all of them."""

REFERENCE_LENGTH: Final = 500
"""Characters of a value with a reference, which OmegaConf parses at about 10 a millisecond."""

DIGITS: Final = 100
"""Of a whole number. One of 309 digits has no float, one of 4,300 cannot be printed."""

MEMORY: Final = 1 << 30
"""Bytes that a JSON text may become, by an estimate from its brackets and commas."""


class OverLimitError(Exception):
    """What a text does that is over a limit, to follow its name in a sentence."""
