"""Result folders that appear complete or not at all: written under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.interrupts import interrupts_deferred, on_interrupt
from fast_sam3d.outputs.locks import folder_lock
from fast_sam3d.outputs.seals import damage, is_sealed, read_sealed

__all__ = [
    "check_file",
    "check_target",
    "clear_unfinished",
    "has_results",
    "log_replaced",
    "refuse_other_settings",
    "result_folder",
    "results_complete",
    "writable_folder",
    "writing",
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
                for folder in (*reversed(_missing_parents(target)), target):
                    if not folder.exists():
                        folder.mkdir()
                        made.append(folder)
                longest = max(known_names, key=len, default="") + ".12345678.tmp"  # as `atomic_write` names it
                with _aside(target.parent) as aside:
                    (aside / longest).mkdir()
            finally:
                for folder in reversed(made):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
    except OSError as error:  # also a name too long for the file system, or a folder that may not be listed
        raise _unwritable(target, error) from error


def clear_unfinished(target: Path) -> None:
    """Remove what killed processes left unfinished in a folder. No other process may be writing there.

    Raises:
        OutputError: the folder has been removed or replaced, or cannot be written.
    """
    with writing(target):
        for path in target.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def has_results(target: Path, report_name: str, identity: Mapping[str, Any]) -> bool:
    """Whether `target` holds complete and undamaged results of these inputs and settings; logs what is damaged.

    Args:
        report_name: of the sealed JSON file that holds "identity", "files" and "input" (image and mask).
        identity: {"input": digests by name, "settings": values by name}, JSON-ready.

    Raises:
        OutputError: it holds those of others, or of unknown ones.
    """
    if not target.is_dir() or not any(target.iterdir()):
        return False
    try:
        report = read_sealed(target / report_name)
        known, made_of = report["identity"], report["input"]
        inputs, settings = dict(known["input"]), dict(known["settings"])
        changed = damage(target / report_name, report)
        picture = f"{made_of['image']} with {made_of['mask']}"
        if known != identity and not is_sealed(report):
            raise ValueError(changed)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{target} holds results, and no {report_name} says what they were made from: {_REPLACE}"
        ) from error
    if inputs != identity["input"]:
        raise OutputError(f"{target} holds the results of another input, {picture}: {_REPLACE}")
    refuse_other_settings(target, settings, identity["settings"])
    if changed:
        log.warning("%s: %s since it was written, so the object is reconstructed again", target, changed)
    return not changed


def log_replaced(target: Path, report_name: str, identity: Mapping[str, Any]) -> None:
    """A log line where results of another picture or mask are about to be replaced. Arguments: see `has_results`."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        report = read_sealed(target / report_name)
        made_of, old = report["input"], report["identity"]["input"]
        if old != identity["input"]:
            log.warning(
                "%s holds the results of another input, %s with %s, which are replaced", target, made_of["image"],
                made_of["mask"],
            )  # fmt: skip


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
    complete = False
    aside = contextlib.ExitStack()
    try:
        with writing(target):
            with interrupts_deferred():
                made = _missing_parents(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                new = aside.enter_context(_aside(target.parent)) / "new"
                new.mkdir()
            yield new
            with interrupts_deferred():
                _swap(new, target)
                complete = True
                aside.close()
    except BaseException:
        if complete:
            with results_complete(target):
                raise
        with interrupts_deferred():
            aside.close()
            for folder in made:
                with contextlib.suppress(OSError):  # not empty: another process wrote there
                    folder.rmdir()
        raise


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise OutputError where files of `target` cannot be written, or it is taken away in the meantime."""
    try:
        yield
    except BrokenPipeError:  # of the standard output
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"{target} cannot be written ({error.strerror}): free some space") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ESTALE):
            raise OutputError(
                f"{target} was removed or replaced by something else while it was being written: run the command again"
            ) from error
        raise _unwritable(target, error) from error


def results_complete(target: Path) -> contextlib.AbstractContextManager[None]:
    """An interrupt in the block reports that the results in `target` are complete."""
    return on_interrupt(f"the results in {target} are complete")


def _missing_parents(target: Path) -> list[Path]:
    """Parents of `target` that do not exist, innermost first."""
    return [p for p in target.absolute().parents if not p.exists()]


def _unwritable(target: Path, error: OSError, flag: str = "--output_dir") -> OutputError:
    text = str(target)
    short = text if len(text) <= 120 else f"{text[:60]}…{text[-40:]}"
    return OutputError(f"{short} cannot be written ({error.strerror or error}): choose another {flag}")


@contextlib.contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent`, removed at the end; a later run on this machine removes that of a killed one.

    Its name is short: that of the results plus a suffix might be too long.
    """
    mine = f".fast_sam3d-{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"
    with contextlib.ExitStack() as stack:
        with folder_lock(parent) as alone:
            for path in parent.glob(f"{mine}*") if alone else ():
                with folder_lock(path, tries=1) as abandoned:
                    if abandoned:
                        shutil.rmtree(path, ignore_errors=True)
            folder = parent / f"{mine}{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(folder_lock(folder))
        yield folder


def _swap(new: Path, target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(target))
    old = new.with_name("old")
    try:
        if target.exists():
            target.rename(old)  # a folder cannot be renamed over a non-empty one
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
