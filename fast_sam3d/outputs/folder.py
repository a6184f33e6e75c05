"""Result folders that appear complete or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.interrupts import interrupts_deferred

__all__ = [
    "check_file",
    "check_target",
    "clear_unfinished",
    "has_results",
    "refuse_other_settings",
    "result_folder",
    "results_complete",
    "writable_folder",
]

log = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"\.fast_sam3d-.*|\..+\.[0-9a-f]{8}\.tmp")
"""Names of unfinished folders and files, see `result_folder` and `fast_sam3d.outputs.files.atomic_write`."""


def check_target(target: Path, known_names: Collection[str], known_folders: Collection[str] = ()) -> None:
    """Check before the work whether `target` can be written, without leaving files.

    Args:
        target: the folder to create or replace.
        known_names, known_folders: of results; a folder with any other file or folder in it is never replaced.

    Raises:
        OutputError: it cannot be written, or holds other files.
    """
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OutputError(f"{target} exists and is not a folder: move it, or choose another --output_dir")
        if target.is_dir():
            foreign = sorted(
                p.name for p in target.iterdir() if p.name not in (known_folders if p.is_dir() else known_names)
            )
            if foreign:
                raise OutputError(
                    f"{target} holds files that are not results ({', '.join(foreign[:3])}): choose another --output_dir"
                )
        parent = next(p for p in target.absolute().parents if p.exists() or p.is_symlink())
        if not parent.is_dir():
            raise OutputError(f"{parent} is a file, so no folder can be created in it: choose another --output_dir")
    except OSError as error:  # a name too long for the file system, or a folder that may not be listed
        raise OutputError(
            f"{_short(target)} cannot be written ({error.strerror}): choose another --output_dir"
        ) from error
    # Permission bits do not show read-only mounts and quotas, and root passes every check: try.
    made: list[Path] = []
    with interrupts_deferred():
        try:
            for folder in (*reversed(_missing_parents(target)), target):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            made.append(Path(tempfile.mkdtemp(prefix=".fast_sam3d-", dir=target.parent)))
            longest = made[-1] / max(known_names, key=len, default="")
            made.append(longest.with_name(longest.name + ".12345678.tmp"))  # as `atomic_write` names it
            made[-1].mkdir()
        except OSError as error:
            raise OutputError(
                f"{_short(target)} cannot be written ({error.strerror}): choose another --output_dir"
            ) from error
        finally:
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def clear_unfinished(target: Path) -> None:
    """Remove what killed processes left unfinished in a folder. No other process may be writing there."""
    for path in target.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def has_results(target: Path, report_name: str, identity: Mapping[str, Any]) -> bool:
    """Whether `target` holds complete results of these inputs and settings.

    Args:
        report_name: of the JSON file that holds "identity", "files" (name to size) and "input" (image and mask).
        identity: {"input": digests by name, "settings": values by name}, JSON-ready.

    Raises:
        OutputError: it holds those of others, or of unknown ones.
    """
    if not target.is_dir() or not any(target.iterdir()):
        return False
    try:
        report = json.loads((target / report_name).read_text(encoding="utf-8"))
        known, files, made_of = report["identity"], report["files"], report["input"]
        inputs, settings = dict(known["input"]), dict(known["settings"])
        whole = all(
            (target / name).is_file() and (target / name).stat().st_size == size for name, size in files.items()
        )
        picture = f"{made_of['image']} with {made_of['mask']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{target} holds results, and no {report_name} says what they were made from: {_REPLACE}"
        ) from error
    if inputs != identity["input"]:
        raise OutputError(f"{target} holds the results of another input, {picture}: {_REPLACE}")
    refuse_other_settings(target, settings, identity["settings"])
    return whole


def refuse_other_settings(target: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises OutputError, naming the first difference, unless the settings are equal."""
    key = next((key for key in (*new, *old) if old.get(key) != new.get(key)), None)
    if key is not None:
        before, now = (json.dumps(settings.get(key))[:80] for settings in (old, new))
        raise OutputError(f"{target} was made with other settings ({key} was {before} and is {now}): {_REPLACE}")


_REPLACE = "add --overwrite to replace them, or choose another --output_dir"


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse, before the work, a file that exists unless it may be replaced, and one in a folder that does not exist.

    Raises:
        OutputError: as said.
    """
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"{parent} does not exist: create it, or choose another path")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: add --overwrite to replace it, or choose another path")


def writable_folder(folder: Path, flag: str) -> None:
    """Create a folder, with its parents, and check that it can be written.

    Args:
        flag: of the command, for the error message.

    Raises:
        OutputError: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits do not show read-only mounts and quotas, so try.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another {flag}") from error


@contextlib.contextmanager
def result_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to write into, which replaces `target` only if the block ends without an exception.

    On any exception, including KeyboardInterrupt, it is removed with the parent folders created for it, and an existing
    `target` is left unchanged. An interrupt during the replacement is deferred until `target` is complete.

    Raises:
        OutputError: the disk is full, or the folder can no longer be written.
    """
    made: list[Path] = []
    aside: Path | None = None
    complete = False
    try:
        with interrupts_deferred():
            made = _missing_parents(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A short name: the target's name plus a suffix might be too long.
            aside = Path(tempfile.mkdtemp(prefix=".fast_sam3d-", suffix=".unfinished", dir=target.parent))
        yield aside
        with interrupts_deferred():
            _set_usual_permissions(aside)
            _swap(aside, target)
            complete = True
    except BaseException as error:
        if complete:
            with results_complete(target):
                raise
        with interrupts_deferred():
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
            for folder in made:
                with contextlib.suppress(OSError):  # not empty: another process wrote there
                    folder.rmdir()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another --output_dir"
            raise OutputError(f"{target} cannot be written ({error.strerror or error}): {hint}") from error
        raise


@contextlib.contextmanager
def results_complete(target: Path) -> Iterator[None]:
    """An interrupt in the block reports that the results in `target` are complete."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"the results in {target} are complete") from error


def _missing_parents(target: Path) -> list[Path]:
    """Parents of `target` that do not exist, innermost first."""
    return [p for p in target.absolute().parents if not p.exists()]


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:60]}…{text[-40:]}"


def _set_usual_permissions(folder: Path) -> None:
    """Set the permissions of a plain mkdir; mkdtemp restricts a folder to its owner."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    # A folder cannot be renamed over a non-empty one: move the old one away first.
    old = Path(tempfile.mkdtemp(prefix=".fast_sam3d-", suffix=".old", dir=target.parent)) / "results"
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        with contextlib.suppress(OSError):
            old.parent.rmdir()
        raise
    shutil.rmtree(old.parent, ignore_errors=True)
