"""Locks, which the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fast_sam3d.errors import OutputError

__all__ = ["folder_lock", "run_lock"]

log = logging.getLogger(__name__)

TRIES = 10  # in half a second
RUN_TRIES = 40  # in two seconds


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


@contextlib.contextmanager
def run_lock(target: Path, lock: Path) -> Iterator[None]:
    """Keep a second run out of a result folder for the length of the block.

    Where there are no such locks (Windows, some network drives) a second run is not detected.

    Args:
        target: the folder. lock: a file in it or beside it, created with its parents; all that is empty is removed.

    Raises:
        OutputError: another run has the folder, or it cannot be written.
    """
    made = [path for path in lock.absolute().parents if not path.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a")  # noqa: SIM115 (held for the length of the block)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}): choose another --output_dir") from error
    with file:
        try:
            _wait_for(file)
            if os.fstat(file.fileno()).st_nlink == 0:  # removed by its last holder
                raise BlockingIOError
        except BlockingIOError as error:
            raise OutputError(
                f"another run is writing into {target}: wait for its end, or choose another --output_dir"
            ) from error
        except (ImportError, OSError):
            log.debug("%s cannot be locked", target)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove open files
                lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: there are results
                for path in made:
                    path.rmdir()


def _wait_for(lock: IO[str]) -> None:
    """Take the lock. The forks of a killed run hold it until they end, a moment later."""
    import fcntl

    for _ in range(RUN_TRIES):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    raise BlockingIOError
