"""Download of the gated SAM 3D Objects weights from the Hugging Face hub, resumable and atomic."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fast_sam3d.checkpoints.files import check_stock_files
from fast_sam3d.errors import CheckpointError, FastSam3dError, OutputError

__all__ = ["REPOSITORY", "download_weights", "unfinished_folder"]

log = logging.getLogger(__name__)

REPOSITORY = "facebook/sam-3d-objects"
# Folder of the published repository with the content of checkpoints/<tag>; copies may have it at the top level.
_INNER = "checkpoints/"
_SETTINGS = "pipeline.yaml"
_ANSWER_SECONDS = 30.0
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas
# Packages with exceptions for failed connections: transports of different versions of the hub client.
_TRANSPORTS = frozenset({"hf_xet", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"})


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
    target = target.expanduser().absolute()
    if _is_done(target):
        log.info("%s is already a complete checkpoint: remove it to download again", target)
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


def _fetch(partial: Path, repository: str, revision: str | None) -> Path:
    """Download missing files, smallest first. Returns the folder with pipeline.yaml."""
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().model_info(repository, revision=revision, timeout=_ANSWER_SECONDS, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    prefix = next((start for start in (_INNER, "") if start + _SETTINGS in files), None)
    if prefix is None:
        raise CheckpointError(f"{repository} has no {_SETTINGS}: it is not a SAM 3D Objects checkpoint")
    wanted = [files[name] for name in files if name.startswith(prefix) and not _hidden(name)]
    wanted.sort(key=lambda file: (file.size or 0, file.rfilename))
    # One folder per commit, so that versions do not mix; those of other commits are removed.
    for other in partial.iterdir():
        if other.name != info.sha:
            shutil.rmtree(other)
    folder = partial / str(info.sha)
    missing = [file for file in wanted if not (folder / file.rfilename).is_file()]
    needed = sum(max((f.size or 0) - _size(_unfinished(folder / f.rfilename)), 0) for f in missing)
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise OutputError(
            f"{_human(needed)} are missing, but the disk of {partial.parent} has only {_human(free)} left: "
            "free some space, or give another --output_dir"
        )
    if len(missing) < len(wanted):
        log.info("resuming: %d of %d files left", len(missing), len(wanted))
    for file in missing:
        log.info("%s (%s)", file.rfilename.removeprefix(prefix), _human(file.size or 0))
        url = hf_hub_url(repository, file.rfilename, revision=info.sha)
        _fetch_file(url, folder / file.rfilename, file.size, getattr(file.lfs, "sha256", None))
    return folder / prefix


def _fetch_file(url: str, path: Path, size: int | None, checksum: str | None) -> None:
    """Download one file, resuming an incomplete one.

    `hf_hub_download` would restart incomplete files of other processes, and the largest have several gigabytes.

    Args:
        size: in bytes; None: unknown.
        checksum: hexadecimal SHA-256; None: unknown.
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
                url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=size,
                displayed_filename=path.name,
            )  # fmt: skip
    if checksum is not None and _sha256(part) != checksum:
        part.unlink()
        raise CheckpointError(f"{path.name} is corrupt: run the same command again to download this file again")
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


def _hidden(name: str) -> bool:
    """Whether a part starts with a dot: files of git and the hub, and ".."."""
    return name.startswith("/") or any(part.startswith(".") for part in PurePosixPath(name).parts)


def _explain(error: BaseException, target: Path, repository: str, revision: str | None) -> FastSam3dError | None:
    """A message with cause and remedy; None for errors of neither the hub nor the disk."""
    if isinstance(error, FastSam3dError):
        return None
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return OutputError(
                f"the disk of {target.parent} is full: free some space and run the same command again, it resumes"
            )
        if isinstance(cause, (PermissionError, FileExistsError, NotADirectoryError)):
            return OutputError(f"{target} cannot be written ({cause.strerror}): give another --output_dir")
    for cause in _chain(error):
        text = _explain_answer(cause, repository, revision)
        if text is not None:
            return CheckpointError(text)
    if type(error).__module__.split(".", 1)[0] in _TRANSPORTS or isinstance(error, (OSError, RuntimeError)):
        detail = next(iter(str(error).strip().splitlines()), "")[:200]
        return CheckpointError(
            f"the download failed ({type(error).__name__}: {detail}): check the network and run the command again "
            "to resume"
        )
    return None


def _explain_answer(error: BaseException, repository: str, revision: str | None) -> str | None:
    """Message for a response of the hub; None for other errors."""
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
        return f"'{repository}' is not a name on the hub: write owner/name, such as {REPOSITORY}"
    if isinstance(error, utils.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it"
    if status == 401:
        return "the hub does not accept your token: run `hf auth login` again, or set HF_TOKEN to a valid one"
    if status == 403:
        reason = getattr(error, "server_message", None) or "no reason given"
        return f"the hub forbids the download of {repository} with your token ({reason}): see {page}"
    if status is not None and (status == 429 or status >= 500):
        return f"the hub is unavailable (status {status}): run the same command later, it resumes"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _human(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
