"""Locks on folders, which the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["folder_lock"]

TRIES = 10  # in half a second


@contextlib.contextmanager
def folder_lock(folder: Path, tries: int = TRIES) -> Iterator[bool]:
    """Hold the lock of a folder. Yields whether it is held: not where another process has it, or there are no locks.

    There are none on Windows and on some network drives.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError, AttributeError):
        yield False
        return
    try:
        held = False
        for attempt in range(tries):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
                break
            except BlockingIOError:
                time.sleep(0.05 if attempt + 1 < tries else 0.0)
            except OSError:
                break
        yield held
    finally:
        os.close(descriptor)
