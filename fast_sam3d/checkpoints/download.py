"""Download of the gated SAM 3D Objects weights from the Hugging Face hub, planned first, resumable and atomic."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from fast_sam3d.checkpoints.files import check_stock_files
from fast_sam3d.checkpoints.hub import (
    REPOSITORY,
    Listing,
    access_problem,
    cached_folder,
    explained,
    list_files,
    login,
)
from fast_sam3d.checkpoints.remote_file import fetch_file, has_size, human, is_intact, size_of, unfinished
from fast_sam3d.errors import CheckpointError, FastSam3dError, OutputError, first_line

__all__ = ["REPOSITORY", "DownloadPlan", "download_weights", "fetch", "plan_download", "unfinished_folder"]

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What a download would do.

    Args:
        target: the folder to create, absolute.
        listing: the files.
        here: the paths of files that an earlier download left complete.
        needed: bytes that are still to be fetched.
        free: bytes on the disk of `target`.
        login: whose login is used.
        problem: why it cannot be done; None if it can.
        cached: a complete checkpoint in the hub client's cache.
    """

    target: Path
    revision: str | None
    listing: Listing
    here: frozenset[str]
    needed: int
    free: int
    login: str
    problem: FastSam3dError | None
    cached: Path | None

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.listing.files)


def download_weights(target: Path, repository: str = REPOSITORY, revision: str | None = None) -> Path:
    """Download a SAM 3D Objects checkpoint with the user's login (`hf auth login`, or HF_TOKEN).

    Files are written to a hidden folder beside `target`, from which the next call resumes after a failure.

    Args:
        target: folder to create, such as checkpoints/hf. A complete one is not changed.
        repository: "owner/name" on the hub.
        revision: branch, tag or commit; None: the main branch.

    Returns:
        `target`, with a complete checkpoint.

    Raises:
        CheckpointError: the hub refuses the files (the message says why and what to do), or they are not a SAM 3D
            Objects checkpoint.
        OutputError: the files cannot be written, or `target` has other content.
    """
    plan = plan_download(target, repository, revision)
    return _checked_target(target) if plan is None else fetch(plan)


def plan_download(target: Path, repository: str = REPOSITORY, revision: str | None = None) -> DownloadPlan | None:
    """What `download_weights` would do; None if `target` is complete. Asks the hub, and writes nothing.

    Arguments and errors as `download_weights`, but what stands in the way on this side (no access, a full disk) is in
    the plan's `problem`.
    """
    target = _checked_target(target)
    with _disk_explained(target):
        if _is_done(target):
            log.info("%s is already a complete checkpoint: remove it to download again", target)
            return None
        existing = next(place for place in target.parents if place.exists())
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is a file")
        listing = list_files(repository, revision)
        folder = unfinished_folder(target) / listing.commit
        here = frozenset(file.path for file in listing.files if has_size(folder / file.path, file.size))
        needed = sum(
            max(file.size - size_of(unfinished(folder / file.path)), 0)
            for file in listing.files
            if file.path not in here
        )
        free = shutil.disk_usage(existing).free
        refused = access_problem(listing, revision)
    problem: FastSam3dError | None = CheckpointError(refused) if refused else None
    if needed > free:
        problem = OutputError(
            f"{human(needed)} are missing, but the disk of {target.parent} has only {human(free)} left: "
            "free some space, or give another --output_dir"
        )
    cached = cached_folder(repository, revision)
    if cached is not None and not _complete(cached):
        cached = None
    return DownloadPlan(target, revision, listing, here, needed, free, login(), problem, cached)


def fetch(plan: DownloadPlan) -> Path:
    """Carry out a plan. Returns its target; errors as `download_weights`."""
    if plan.problem is not None:
        raise plan.problem
    target, listing = plan.target, plan.listing
    partial = unfinished_folder(target)
    with _disk_explained(target), explained(listing.repository, plan.revision):
        try:
            partial.mkdir(parents=True, exist_ok=True)
            with _alone(partial) as lock:
                # One folder per commit, so that versions do not mix; those of other commits are removed.
                for other in partial.iterdir():
                    if other.name not in (listing.commit, lock):
                        _remove(other)
                folder = partial / listing.commit
                _fetch_files(plan, folder)
                inner = folder / listing.prefix
                check_stock_files(inner, f"remove {partial} to start again")
                if target.exists():
                    target.rmdir()
                inner.rename(target)
        except Exception:
            if not any(size_of(file) for file in partial.rglob("*")):
                shutil.rmtree(partial, ignore_errors=True)
            raise
    shutil.rmtree(partial, ignore_errors=True)
    return target


def unfinished_folder(target: Path) -> Path:
    """The folder of an incomplete download."""
    return target.with_name(f".{target.name}.partial")


def _is_done(target: Path) -> bool:
    """Whether `target` is complete; empty folders are not. Raises OutputError if it has other content."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        check_stock_files(target, "something is missing")
    except (CheckpointError, NotADirectoryError) as error:
        raise OutputError(
            f"{target} exists and is not a complete checkpoint: move it away, or give another --output_dir ({error})"
        ) from error
    return True


def _complete(folder: Path) -> bool:
    try:
        check_stock_files(folder, "")
    except CheckpointError:
        return False
    return True


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[str]:
    """Holds the lock of an incomplete download, and yields the name of its file."""
    from filelock import FileLock, Timeout  # a dependency of the hub client

    lock = partial / ".lock"
    try:
        with FileLock(lock, timeout=0):
            yield lock.name
    except Timeout as error:
        raise OutputError(
            f"another process is downloading into {partial}: wait for its end, then run this again"
        ) from error


def _checked_target(target: Path) -> Path:
    """The folder to create, absolute."""
    try:
        absolute = target.expanduser().absolute().resolve()
        if absolute.is_mount() or Path.cwd().is_relative_to(absolute):
            raise ValueError("not a new folder")
    except (OSError, RuntimeError, ValueError) as error:  # also a circle of links, an unknown user, a null character
        raise OutputError(
            f"'{ascii(str(target))[1:-1]}' cannot be created ({first_line(error)}): give another --output_dir, such as "
            "checkpoints/hf"
        ) from error
    return absolute


def _fetch_files(plan: DownloadPlan, folder: Path) -> None:
    """Download missing files, smallest first, into a folder that then has nothing else."""
    listing = plan.listing
    if plan.here:
        left = len(listing.files) - len(plan.here)
        log.info("resuming: %d of %d files left", left, len(listing.files))
    paths = {file: folder / file.path for file in listing.files}
    _clear(folder, {*paths.values(), *map(unfinished, paths.values())})
    for file, path in paths.items():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{file.path} would be written outside of {folder}: use another repository")
        if path.is_file():
            if is_intact(path, file):
                continue
            log.warning("%s is damaged: downloading it again", file.path.removeprefix(listing.prefix))
            path.unlink()
        log.info("%s (%s)", file.path.removeprefix(listing.prefix), human(file.size))
        fetch_file(listing, file, path)


def _clear(folder: Path, known: Container[Path]) -> None:
    """Remove all but known files and the folders above them."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink() or not (path.is_dir() or (path in known and path.is_file())):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def _disk_explained(target: Path) -> Iterator[None]:
    """Raises errors of the disk as ours; others unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"the disk of {target.parent} is full: free some space and run the same command again, it resumes"
            ) from error
        raise OutputError(
            f"{target} cannot be written ({error.strerror or first_line(error)}): give another --output_dir"
        ) from error
