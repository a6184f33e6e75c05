"""Where the jobs' folders are: a temporary or a given folder, of which only the newest jobs are kept."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.folder import writable_folder

__all__ = ["JobFolders"]

LEAST_FREE = 200 * 2**20
"""Bytes; a job is refused where the disk has less."""


class JobFolders:
    """Creates a folder per job and removes the oldest ones.

    Args:
        root: None: a temporary folder, which `close` removes with all jobs.
        keep: of this many jobs the results are kept; None: of all.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, root: Path | None = None, keep: int | None = 20) -> None:
        self._temporary = root is None
        if root is None:
            try:
                self.root = Path(tempfile.mkdtemp(prefix="fast-sam3d-"))
            except OSError as error:
                raise OutputError(f"no temporary folder can be created ({error.strerror}): free some space") from error
        else:
            writable_folder(root, "--output_dir")
            self.root = root.absolute()
        self.keep = keep
        self._kept: OrderedDict[str, Path] = OrderedDict()

    def create(self, name: str) -> Path:
        """A new folder; of older jobs at most `keep` - 1 stay.

        Raises:
            OutputError: no space, or the folder cannot be written.
        """
        while self.keep is not None and len(self._kept) >= max(self.keep, 1):
            _, oldest = self._kept.popitem(last=False)
            shutil.rmtree(oldest, ignore_errors=True)
        try:
            if shutil.disk_usage(self.root).free < LEAST_FREE:
                raise OutputError(f"there is no space for results in {self.root}: free {LEAST_FREE >> 20} MiB")
            folder = self.root / name
            folder.mkdir()
        except OSError as error:
            raise OutputError(f"{self.root} cannot be written ({error.strerror}): free some space") from error
        self._kept[name] = folder
        return folder

    def remove(self, name: str) -> None:
        """Remove the folder of a job that left nothing."""
        if (folder := self._kept.pop(name, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def close(self) -> None:
        """Remove the temporary folder; a given one stays."""
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)
