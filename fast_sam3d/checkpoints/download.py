"""Download of the gated SAM 3D Objects weights from the Hugging Face hub, planned first, resumable and atomic."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fast_sam3d.checkpoints.files import check_stock_files
from fast_sam3d.checkpoints.hub import (
    REPOSITORY,
    Listing,
    RemoteFile,
    access_problem,
    cached_folder,
    chain,
    explain,
    list_files,
    login,
)
from fast_sam3d.errors import CheckpointError, FastSam3dError, OutputError

__all__ = ["REPOSITORY", "DownloadPlan", "download_weights", "fetch", "plan_download", "unfinished_folder"]

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas
# Packages with exceptions for failed connections: transports of different versions of the hub client.
_TRANSPORTS = frozenset({"hf_xet", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"})


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
    return target.expanduser().absolute() if plan is None else fetch(plan)


def plan_download(target: Path, repository: str = REPOSITORY, revision: str | None = None) -> DownloadPlan | None:
    """What `download_weights` would do; None if `target` is complete. Asks the hub, and writes nothing.

    Arguments and errors as `download_weights`, but what stands in the way on this side (no access, a full disk) is in
    the plan's `problem`.
    """
    target = target.expanduser().absolute()
    if _is_done(target):
        log.info("%s is already a complete checkpoint: remove it to download again", target)
        return None
    with _explained(target, repository, revision):
        listing = list_files(repository, revision)
        folder = unfinished_folder(target) / listing.commit
        here = frozenset(file.path for file in listing.files if (folder / file.path).is_file())
        needed = sum(
            max(file.size - _size(_unfinished(folder / file.path)), 0)
            for file in listing.files
            if file.path not in here
        )
        existing = next(place for place in target.parents if place.exists())
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is a file")
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
    with _explained(target, listing.repository, plan.revision):
        try:
            partial.mkdir(parents=True, exist_ok=True)
            # One folder per commit, so that versions do not mix; those of other commits are removed.
            for other in partial.iterdir():
                if other.name != listing.commit:
                    shutil.rmtree(other)
            _fetch_files(plan, partial / listing.commit)
            inner = partial / listing.commit / listing.prefix
            check_stock_files(inner, f"remove {partial} to start again")
            if target.exists():
                target.rmdir()
            inner.rename(target)
        except Exception:
            if not any(_size(file) for file in partial.rglob("*")):
                shutil.rmtree(partial, ignore_errors=True)
            raise
    shutil.rmtree(partial, ignore_errors=True)
    return target


def unfinished_folder(target: Path) -> Path:
    """The folder of an incomplete download."""
    return target.with_name(f".{target.name}.partial")


def human(size: int) -> str:
    """A number of bytes for people."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"


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


def _fetch_files(plan: DownloadPlan, folder: Path) -> None:
    """Download missing files, smallest first."""
    missing = [file for file in plan.listing.files if file.path not in plan.here]
    if plan.here:
        log.info("resuming: %d of %d files left", len(missing), len(plan.listing.files))
    for file in missing:
        log.info("%s (%s)", file.path.removeprefix(plan.listing.prefix), human(file.size))
        _fetch_file(plan.listing, file, folder / file.path)


def _fetch_file(listing: Listing, file: RemoteFile, path: Path) -> None:
    """Download one file, resuming an incomplete one.

    `hf_hub_download` would restart incomplete files of other processes, and the largest have several gigabytes.
    """
    from huggingface_hub import hf_hub_url

    part = _unfinished(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if _size(part) > file.size:
        part.unlink()
    if _size(part) < file.size or not part.is_file():
        _append(hf_hub_url(listing.repository, file.path, revision=listing.commit), part, file.size, path.name)
    if file.checksum is not None and _sha256(part) != file.checksum:
        part.unlink()
        raise CheckpointError(f"{path.name} is corrupt: run the same command again to download this file again")
    part.replace(path)


def _append(url: str, part: Path, size: int, shown: str) -> None:
    """Resume the download of a file, again after each dropped connection that brought some bytes."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    while True:
        before = _size(part)
        try:
            with part.open("ab") as stream:
                http_get(
                    url, stream, resume_size=before, headers=build_hf_headers(), expected_size=size or None,
                    displayed_filename=shown,
                )  # fmt: skip
            return
        except Exception as error:
            if type(error).__module__.split(".", 1)[0] not in _TRANSPORTS or _size(part) <= before:
                raise
            log.info("the connection was dropped: resuming")


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _explained(target: Path, repository: str, revision: str | None) -> Iterator[None]:
    """Raises errors of the hub and the disk as ours; others unchanged."""
    try:
        yield
    except Exception as error:
        explained = _explain(error, target, repository, revision)
        if explained is None:
            raise
        raise explained from error


def _explain(error: BaseException, target: Path, repository: str, revision: str | None) -> FastSam3dError | None:
    """A message with cause and remedy; None for errors of neither the hub nor the disk."""
    if isinstance(error, FastSam3dError):
        return None
    for cause in chain(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return OutputError(
                f"the disk of {target.parent} is full: free some space and run the same command again, it resumes"
            )
        if isinstance(cause, (PermissionError, FileExistsError, NotADirectoryError)):
            return OutputError(f"{target} cannot be written ({cause.strerror}): give another --output_dir")
    text = explain(error, repository, revision)
    if text is not None:
        return CheckpointError(text)
    if type(error).__module__.split(".", 1)[0] in _TRANSPORTS or isinstance(error, (OSError, RuntimeError)):
        detail = next(iter(str(error).strip().splitlines()), "")[:200]
        return CheckpointError(
            f"the download failed ({type(error).__name__}: {detail}): check the network and run the command again "
            "to resume; without a network, copy the folder from a computer that has it and give --tag PATH"
        )
    return None
