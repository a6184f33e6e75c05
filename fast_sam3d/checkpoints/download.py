"""Fetches the gated SAM 3D Objects weights from the hub: aside first, checked, then put in place by one rename."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fast_sam3d.checkpoints.files import check_stock_files
from fast_sam3d.errors import CheckpointError, FastSam3dError, OutputError

__all__ = ["REPOSITORY", "download_weights", "unfinished_folder"]

log = logging.getLogger(__name__)

REPOSITORY = "facebook/sam-3d-objects"
# Where the published repository keeps what belongs into checkpoints/<tag>; a copy of it may have it at its top.
_INNER = "checkpoints"
_SETTINGS = "pipeline.yaml"
_ANSWER_SECONDS = 30.0
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quotas
# Packages whose exceptions mean that the connection failed: the transports of different versions of the hub's client.
_TRANSPORTS = frozenset({"hf_xet", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"})


def download_weights(target: Path, repository: str = REPOSITORY, revision: str | None = None) -> Path:
    """Downloads a SAM 3D Objects checkpoint with the user's own login (`hf auth login`, or HF_TOKEN).

    Files arrive in a hidden folder beside `target`, which stays when something fails: the next call goes on from there.

    Args:
        target: the folder to make, such as checkpoints/hf. One that is there already is left alone.
        repository: "owner/name" on the hub.
        revision: branch, tag or commit; None takes the main branch.

    Returns:
        `target`, which holds a whole checkpoint.

    Raises:
        CheckpointError: the hub does not hand the files out (the message says why, and what to do), or they are not a
            SAM 3D Objects checkpoint.
        OutputError: they cannot be written, or something else is at `target`.
    """
    target = target.expanduser().absolute()
    if _is_done(target):
        log.info("%s already holds a whole checkpoint: remove it to download again", target)
        return target
    partial = unfinished_folder(target)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        inner = _fetch(partial, repository, revision)
        check_stock_files(inner, f"remove {partial} to start again")
        if target.exists():
            target.rmdir()
        inner.rename(target)
    except Exception as error:
        if not any(_size(file) for file in partial.rglob("*")):
            shutil.rmtree(partial, ignore_errors=True)
        explained = _explain(error, target, repository, revision)
        if explained is None:
            raise
        raise explained from error
    shutil.rmtree(partial, ignore_errors=True)
    return target


def unfinished_folder(target: Path) -> Path:
    """Returns the folder that holds what has arrived so far."""
    return target.with_name(f".{target.name}.partial")


def _is_done(target: Path) -> bool:
    """Whether the work is done. Raises OutputError if something else is in the way; an empty folder is not."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        check_stock_files(target, "something is missing")
    except (CheckpointError, NotADirectoryError) as error:
        raise OutputError(
            f"{target} is there and holds no whole checkpoint: move it away, or give another --output_dir ({error})"
        ) from error
    return True


def _fetch(partial: Path, repository: str, revision: str | None) -> Path:
    """Downloads every file that is not there yet, the smallest first. Returns the folder that holds pipeline.yaml."""
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().model_info(repository, revision=revision, timeout=_ANSWER_SECONDS, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    prefix = _prefix(files, repository)
    wanted = [files[name] for name in files if name.startswith(prefix) and not _hidden(name)]
    wanted.sort(key=lambda file: (file.size or 0, file.rfilename))
    # One folder per commit: files of two versions must not mix. Those of another are of no use any more.
    for other in partial.iterdir():
        if other.name != info.sha:
            shutil.rmtree(other)
    folder = partial / str(info.sha)
    missing = [file for file in wanted if not (folder / file.rfilename).is_file()]
    _check_space(partial, sum(max((f.size or 0) - _size(_unfinished(folder / f.rfilename)), 0) for f in missing))
    if len(missing) < len(wanted):
        log.info("going on with %d of %d files", len(missing), len(wanted))
    for file in missing:
        log.info("%s (%s)", file.rfilename.removeprefix(prefix), _human(file.size or 0))
        url = hf_hub_url(repository, file.rfilename, revision=info.sha)
        _fetch_file(url, folder / file.rfilename, file.size, getattr(file.lfs, "sha256", None))
    return folder / prefix


def _fetch_file(url: str, path: Path, size: int | None, checksum: str | None) -> None:
    """Downloads one file, from the byte where an earlier call stopped.

    The hub's own `hf_hub_download` begins a file again that another process did not finish, and the largest of these
    has several gigabytes.

    Args:
        size: in bytes; None: unknown.
        checksum: SHA-256 in hexadecimal digits; None: unknown.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part = _unfinished(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if size is not None and _size(part) > size:
        part.unlink()
    if size is None or _size(part) < size or size == 0:
        with part.open("ab") as stream:
            http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=build_hf_headers(),
                expected_size=size,
                displayed_filename=path.name,
            )
    if checksum is not None and _sha256(part) != checksum:
        part.unlink()
        raise CheckpointError(f"{path.name} arrived damaged: run the same command again, it fetches this file anew")
    part.replace(path)


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


def _prefix(names: Any, repository: str) -> str:
    for prefix in (f"{_INNER}/", ""):
        if prefix + _SETTINGS in names:
            return prefix
    raise CheckpointError(f"{repository} holds no {_SETTINGS}: it is not a SAM 3D Objects checkpoint")


def _hidden(name: str) -> bool:
    """Whether a part starts with a dot: what git and the hub keep for themselves, and ".."."""
    return name.startswith("/") or any(part.startswith(".") for part in PurePosixPath(name).parts)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{_human(needed)} are still to come and the disk of {folder.parent} has {_human(free)} left: "
            "free some, or give another --output_dir"
        )


def _explain(error: BaseException, target: Path, repository: str, revision: str | None) -> FastSam3dError | None:
    """What went wrong and what to do, in one sentence; None for an error that is not of the hub or the disk."""
    if isinstance(error, FastSam3dError):
        return None
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return OutputError(f"the disk of {target.parent} is full: free some space, then the same command goes on")
        if isinstance(cause, (PermissionError, FileExistsError, NotADirectoryError)):
            return OutputError(f"{target} cannot be written ({cause.strerror}): give another --output_dir")
    for cause in _chain(error):
        text = _explain_answer(cause, repository, revision)
        if text is not None:
            return CheckpointError(text)
    if type(error).__module__.split(".", 1)[0] in _TRANSPORTS or isinstance(error, (OSError, RuntimeError)):
        detail = next(iter(str(error).strip().splitlines()), "")[:200]
        return CheckpointError(
            f"the download broke off ({type(error).__name__}: {detail}): check the network and run the same command "
            "again, it goes on where it stopped"
        )
    return None


def _explain_answer(error: BaseException, repository: str, revision: str | None) -> str | None:
    """What an answer of the hub means; None for an error that is none."""
    from huggingface_hub import constants, get_token, utils

    page = f"{constants.ENDPOINT}/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, utils.GatedRepoError) and get_token() is None:
        return (
            f"{repository} is gated and you are not logged in: accept the licence on {page} and wait until access is "
            "granted, run `hf auth login` (or set HF_TOKEN) with a token of the same account, then run this again"
        )
    if isinstance(error, utils.GatedRepoError):
        return (
            f"the account of your token has no access to {repository}: accept the licence on {page} and wait until "
            "access is granted, then run this again (a fine-grained token must also be allowed to read gated "
            "repositories; `hf auth whoami` says whose token it is)"
        )
    if isinstance(error, utils.RevisionNotFoundError):
        return f"{repository} has no revision '{revision}': leave --revision out, or see {page}/commits/main"
    if isinstance(error, utils.RepositoryNotFoundError):
        login = "your login may not see it" if get_token() else "you are not logged in (`hf auth login`, or HF_TOKEN)"
        return f"the hub shows no repository '{repository}': check the name; if it is private or gated, {login}"
    if isinstance(error, utils.HFValidationError):
        return f"'{repository}' is no name on the hub: write owner/name, such as {REPOSITORY}"
    if isinstance(error, utils.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that nothing can be downloaded: unset it"
    if status == 401:
        return "the hub does not accept your token: run `hf auth login` again, or set HF_TOKEN to a valid one"
    if status == 403:
        said = getattr(error, "server_message", None) or "no reason given"
        return f"the hub forbids the download of {repository} with your token ({said}): see {page}"
    if status is not None and (status == 429 or status >= 500):
        return f"the hub is busy or out of order (status {status}): run the same command later, it goes on"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
