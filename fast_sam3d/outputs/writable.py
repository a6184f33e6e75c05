"""Folders that long commands write to, tried before the work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fast_sam3d.errors import OutputError


def writable_folder(folder: Path, flag: str) -> None:
    """Make a folder, with its parents, and try to write in it.

    Args:
        flag: of the command, that chooses another one.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only trying tells: read-only mounts and quotas are not in the permission bits.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another {flag}") from error
