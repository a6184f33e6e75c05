"""A folder of results that appears whole: written aside, then renamed; an older one stays until the new is complete."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from fast_sam3d.errors import OutputError

__all__ = ["check_target", "result_folder"]

log = logging.getLogger(__name__)


def check_target(target: Path, known_names: Collection[str]) -> None:
    """Finds out before the work whether `target` can be written, leaving nothing behind.

    Args:
        target: the folder to be made or replaced.
        known_names: the file names that results have; a folder that holds anything else is never replaced.

    Raises:
        OutputError: with one sentence that says what to do.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is in the way and not a folder: move it, or choose another --output_dir")
    if target.is_dir():
        foreign = sorted({p.name for p in target.iterdir()} - set(known_names))
        if foreign:
            raise OutputError(
                f"{target} holds files that are not results ({', '.join(foreign[:3])}): choose another --output_dir"
            )
    parent = next(p for p in target.absolute().parents if p.exists() or p.is_symlink())
    if not parent.is_dir():
        raise OutputError(f"{parent} is a file, so no folder can be made in it: choose another --output_dir")
    try:
        # Only trying tells: read-only mounts and quotas are not in the permission bits, and root passes every check.
        os.rmdir(tempfile.mkdtemp(prefix=".fast_sam3d-", dir=parent))
    except OSError as error:
        raise OutputError(f"{parent} cannot be written ({error.strerror}): choose another --output_dir") from error


@contextlib.contextmanager
def result_folder(target: Path) -> Iterator[Path]:
    """Gives a new folder to write into, which takes the place of `target` only when the block ends without exception.

    On any exception, KeyboardInterrupt too, it is removed with the parent folders made for it, and an older `target`
    stays as it was.

    Raises:
        OutputError: the disk is full, or the place can no longer be written.
    """
    made = [p for p in target.absolute().parents if not p.exists()]
    aside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".unfinished", dir=target.parent))
        yield aside
        _open_to_others(aside)
        _swap(aside, target)
    except BaseException as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: someone else has written there
                folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another --output_dir"
            raise OutputError(f"{target} cannot be written ({error.strerror or error}): {hint}") from error
        raise


def _open_to_others(folder: Path) -> None:
    """mkdtemp makes a folder for its owner only; results get what a plain mkdir gives."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    # A folder cannot be renamed over one that holds files: the old one steps aside for the moment between two renames.
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent)) / target.name
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if not target.exists():
            old.rename(target)
            old.parent.rmdir()
        raise
    shutil.rmtree(old.parent, ignore_errors=True)
