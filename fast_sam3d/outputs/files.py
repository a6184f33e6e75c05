"""Files that appear complete or not at all: atomic writes, and JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_write", "json_types", "save_json"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` only if the block ends without an exception.

    The bytes go to a hidden file in the same folder, which is synced and then renamed. On any exception, including
    KeyboardInterrupt, the hidden file is removed and an existing `path` is left unchanged.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    hidden = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        # Not tempfile: its files are readable by their owner only, and the rename would keep that.
        with open(hidden, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, target)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def save_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write indented UTF-8 JSON; arrays and tensors become lists, values that are not finite become null.

    Characters that UTF-8 cannot encode, as in a path of another encoding, are escaped as \\udcXX and read back equal.
    """
    text = json.dumps(json_types(content), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write((text + "\n").encode("utf-8", "backslashreplace"))


def json_types(value: Any) -> Any:
    """Convert to JSON types, recursively; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_types(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return json_types(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
