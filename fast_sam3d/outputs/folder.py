"""Result folders that appear complete or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from fast_sam3d.documents import read_json
from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.interrupts import interrupts_deferred

__all__ = [
    "check_file",
    "check_target",
    "clear_unfinished",
    "has_files",
    "has_results",
    "log_replaced",
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
        # Permission bits do not show read-only mounts and quotas, and root passes every check: try.
        made: list[Path] = []
        with interrupts_deferred():
            try:
                inside = _hidden(target)
                longest = max(known_names, key=len, default="") + ".12345678.tmp"  # as `atomic_write` names it
                for folder in (*reversed(_missing_parents(target)), target, inside, inside / longest):
                    if not folder.exists():
                        folder.mkdir()
                        made.append(folder)
            finally:
                for folder in reversed(made):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
    except OSError as error:  # also a name too long for the file system, or a folder that may not be listed
        raise _unwritable(target, error) from error


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
        report = read_json(target / report_name)
        known, files, made_of = report["identity"], report["files"], report["input"]
        inputs, settings = dict(known["input"]), dict(known["settings"])
        whole = has_files(target, files)
        picture = f"{made_of['image']} with {made_of['mask']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{target} holds results, and no {report_name} says what they were made from: {_REPLACE}"
        ) from error
    if inputs != identity["input"]:
        raise OutputError(f"{target} holds the results of another input, {picture}: {_REPLACE}")
    refuse_other_settings(target, settings, identity["settings"])
    return whole


def log_replaced(target: Path, report_name: str, identity: Mapping[str, Any]) -> None:
    """A log line where results of another picture or mask are about to be replaced. Arguments: see `has_results`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = read_json(target / report_name)
        made_of, old = report["input"], report["identity"]["input"]
        if old != identity["input"]:
            log.warning(
                "%s holds the results of another input, %s with %s, which are replaced", target, made_of["image"],
                made_of["mask"],
            )  # fmt: skip


def has_files(folder: Path, sizes: Mapping[str, int | None]) -> bool:
    """Whether all of some files are in a folder, with these sizes in bytes; None: any size."""
    paths = {folder / name: size for name, size in sizes.items()}
    return all(path.is_file() and size in (None, path.stat().st_size) for path, size in paths.items())


def refuse_other_settings(target: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises OutputError, naming the first difference, unless the settings are equal."""
    if dict(old) != dict(new):
        key, *values = _first_difference(old, new)
        module = key.removeprefix("modules.")  # of the configuration: ss.when.stride
        if module != key and {} in values:
            before, now = ("on" if value else "off" for value in values)
        else:
            before, now = (shorten(json.dumps(value), 80, placeholder=" …") for value in values)
        raise OutputError(f"{target} was made with other settings ({module} was {before} and is {now}): {_REPLACE}")


def _first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any]:
    """The dotted key of the first value that differs, and both values."""
    if old and new and isinstance(old, Mapping) and isinstance(new, Mapping):
        name = next(name for name in (*new, *old) if old.get(name) != new.get(name))
        return _first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    return key, old, new


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
        raise _unwritable(folder, error, flag) from error


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
            aside = _hidden(target, ".unfinished")
            aside.mkdir()
        yield aside
        with interrupts_deferred():
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
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutputError(f"{target} cannot be written ({error.strerror}): free some space") from error
            raise _unwritable(target, error) from error
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


def _unwritable(target: Path, error: OSError, flag: str = "--output_dir") -> OutputError:
    text = str(target)
    short = text if len(text) <= 120 else f"{text[:60]}…{text[-40:]}"
    return OutputError(f"{short} cannot be written ({error.strerror or error}): choose another {flag}")


def _hidden(target: Path, suffix: str = "") -> Path:
    """A new name beside `target`, short: the target's name plus a suffix might be too long."""
    return target.parent / f".fast_sam3d-{uuid.uuid4().hex[:8]}{suffix}"


def _swap(new: Path, target: Path) -> None:
    old = _hidden(target, ".old")
    try:
        if target.exists():
            target.rename(old)  # a folder cannot be renamed over a non-empty one
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
