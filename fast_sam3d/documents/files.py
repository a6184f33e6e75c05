"""The text of a regular file, bounded in bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from fast_sam3d.documents.limits import OverLimitError
from fast_sam3d.errors import FastSam3dError

_SURROGATE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def read_bytes(path: Path, most: int, name: str, error: type[FastSam3dError], advice: str) -> bytes:
    """The content of a file, or, of one that has more than `most` bytes, one byte more than those.

    Raises:
        error: it is not a regular file, or cannot be read.
    """
    try:
        if not path.is_file() and path.exists():
            raise error(f"{name} cannot be read (it is not a file): {advice}")
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as reason:
        raise error(f"{name} cannot be read ({reason.strerror or reason}): {advice}") from reason
    except FastSam3dError:
        raise
    except ValueError as reason:  # a null character in the path
        raise error(f"{name!a} cannot be read ({reason}): {advice}") from reason


def decoded(text: str | bytes, most: int) -> str:
    """A text without the mark of the order of bytes. Raises OverLimitError for more than `most` bytes or characters."""
    if len(text) > most:
        size = f"{most >> 20} MB" if most >= 1 << 20 else f"{most >> 10} KB"
        raise OverLimitError(f"has more than {size}")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as reason:
            raise OverLimitError(f"is not text in UTF-8 (at byte {reason.start})") from reason
    return text.removeprefix("\ufeff")


def check_text(text: str) -> None:
    """Raises OverLimitError for a null character, or half a surrogate pair, which no path and no output can hold.

    U+DC80 to U+DCFF are allowed: Python's names of files that are not in UTF-8 have them, and records hold such names.
    """
    if "\0" in text:
        raise OverLimitError("has a null character in a text")
    if not text.isascii() and _SURROGATE.search(text):
        raise OverLimitError("has half of a surrogate pair in a text")
