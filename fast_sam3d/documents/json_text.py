"""Reads JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from fast_sam3d.documents.files import check_text, decoded, read_bytes
from fast_sam3d.documents.limits import DEPTH, DIGITS, MEMORY, RECORD_BYTES, OverLimitError
from fast_sam3d.errors import ConfigError, FastSam3dError

_DEEP: Final = f"nests lists or mappings more than {DEPTH} deep"
_LONG: Final = re.compile(rf"\d{{{DIGITS + 1}}}")
_ESCAPES: Final = re.compile(r"\\u(0000|[dD][89a-fA-F])")
"""How a null character and surrogates are written."""
_LETTERS: Final = {"[": 72, "{": 72, ",": 36, '"': 16}
"""Bytes that a value takes, by a letter that each value of its kind has: a container, one in a container, a text."""


def read_json(
    path: Path,
    *,
    error: type[FastSam3dError] = ConfigError,
    advice: str = "delete it",
    name: str = "",
    most_bytes: int = RECORD_BYTES,
) -> Any:
    """The content of a JSON file.

    Args:
        path: of a regular file; a pipe, a device or a folder is refused.
        error: the class of the errors.
        advice: what to do about a bad file, the end of every message.
        name: of the file in messages; empty: its path.
        most_bytes: its largest size.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        error: it cannot be read, is not JSON, or is over a limit.
    """
    name = name or str(path)
    # Not kept here, so that it can be freed once it is decoded.
    return parse_json(
        read_bytes(path, most_bytes, name, error, advice), name, error=error, advice=advice, most_bytes=most_bytes
    )


def parse_json(
    text: str | bytes,
    name: str,
    *,
    error: type[FastSam3dError] = ConfigError,
    advice: str = "delete it",
    most_bytes: int = RECORD_BYTES,
) -> Any:
    """The content of a JSON text. Arguments, result and errors: see `read_json`."""
    try:
        if _memory(text) > MEMORY:
            raise OverLimitError(f"needs more than {MEMORY >> 30} GB of memory")
        text = decoded(text, most_bytes)
        content = json.loads(text, parse_int=_whole if _LONG.search(text) else None)
        _check_depth(content)
        if _ESCAPES.search(text):
            for value in _texts(content):
                check_text(value)
        return content
    except OverLimitError as reason:
        raise error(f"{name} {reason}: {advice}") from None
    except RecursionError:
        raise error(f"{name} {_DEEP}: {advice}") from None
    except json.JSONDecodeError as reason:
        place = f"line {reason.lineno}, column {reason.colno}: {reason.msg}"
        raise error(f"{name} is not JSON ({place}): {advice}") from reason


def _memory(text: str | bytes) -> int:
    """An estimate of the bytes of a text and of its values: the characters twice, and what holds each value."""
    if isinstance(text, str):
        width = sys.getsizeof(text) // max(1, len(text))
        counts = {letter: text.count(letter) for letter in _LETTERS}
    else:
        width = 1 if text.isascii() else 4 if re.search(rb"[\xf0-\xff]", text) else 2
        counts = {letter: text.count(letter.encode()) for letter in _LETTERS}
    return 2 * width * len(text) + sum(counts[letter] * size for letter, size in _LETTERS.items())


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise OverLimitError(f"has a whole number of more than {DIGITS} digits")
    return int(digits)


def _check_depth(content: Any) -> None:
    """Level by level, so that it cannot recurse."""
    level = [content]
    for _ in range(DEPTH):
        level = [value for value in _inside(level) if type(value) is list or type(value) is dict]
        if not level:
            return
    raise OverLimitError(_DEEP)


def _inside(level: list[Any]) -> Iterable[Any]:
    """What the containers among some values hold."""
    containers = (value for value in level if type(value) is list or type(value) is dict)
    return chain.from_iterable(value.values() if type(value) is dict else value for value in containers)


def _texts(content: Any) -> Iterator[str]:
    level = [content]
    while level:
        for value in level:
            yield from value if type(value) is dict else [value] if type(value) is str else ()
        level = list(_inside(level))
