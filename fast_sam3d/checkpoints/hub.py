"""What the Hugging Face hub says of a checkpoint: its files, the user's login and access, and why it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fast_sam3d.errors import CheckpointError

__all__ = ["REPOSITORY", "Listing", "RemoteFile", "access_problem", "cached_folder", "explain", "list_files", "login"]

REPOSITORY = "facebook/sam-3d-objects"
# Folder of the published repository with the content of checkpoints/<tag>; copies may have it at the top level.
_INNER = "checkpoints/"
_SETTINGS = "pipeline.yaml"
_ANSWER_SECONDS = 30.0
_WITHOUT_NETWORK = "or copy the folder from a computer that has it and give its path with --tag PATH"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub: path in the repository, size in bytes (0: unknown), and hexadecimal SHA-256 or None."""

    path: str
    size: int
    checksum: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a checkpoint, smallest first; their paths start with `prefix`."""

    repository: str
    commit: str
    prefix: str
    files: tuple[RemoteFile, ...]


def list_files(repository: str, revision: str | None) -> Listing:
    """The files of a checkpoint, from the hub's metadata. Gated repositories show them to everybody.

    Raises:
        CheckpointError: it has no pipeline.yaml, or HF_HUB_OFFLINE is set.
        Exception: whatever the hub client raises; `explain` knows them.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it, {_WITHOUT_NETWORK}")
    info = HfApi().model_info(repository, revision=revision, timeout=_ANSWER_SECONDS, files_metadata=True)
    found = {file.rfilename: file for file in info.siblings or []}
    prefix = next((start for start in (_INNER, "") if start + _SETTINGS in found), None)
    if prefix is None:
        raise CheckpointError(f"{repository} has no {_SETTINGS}: it is not a SAM 3D Objects checkpoint")
    files = [
        RemoteFile(name, file.size or 0, getattr(file.lfs, "sha256", None))
        for name, file in found.items()
        if name.startswith(prefix) and not _hidden(name)
    ]
    return Listing(repository, str(info.sha), prefix, tuple(sorted(files, key=lambda file: (file.size, file.path))))


def login() -> str:
    """Whether there is a login on the hub, and whose. A token is never shown."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        return "none (`hf auth login`, or HF_TOKEN)"
    try:
        return f"as {HfApi().whoami(token)['name']}"
    except Exception as error:  # of the hub, the network, or an answer without a name
        if _status(error) in (401, 403):
            return "a token was found, and the hub does not accept it"
        return "a token was found, and the hub did not say whose it is"


def access_problem(listing: Listing, revision: str | None) -> str | None:
    """Why the hub refuses the files to this login; None if it does not."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(listing.repository, listing.files[0].path, revision=listing.commit))
    except Exception as error:
        text = explain(error, listing.repository, revision)
        if text is None:
            raise
        return text
    return None


def cached_folder(repository: str, revision: str | None) -> Path | None:
    """The folder of pipeline.yaml in the cache of the hub client, from an earlier `hf download`; None: not there."""
    from huggingface_hub import try_to_load_from_cache, utils

    for prefix in (_INNER, ""):
        try:
            found = try_to_load_from_cache(repository, prefix + _SETTINGS, revision=revision)
        except utils.HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def explain(error: BaseException, repository: str, revision: str | None) -> str | None:
    """One sentence for an error of the hub: the cause and what to do; None for other errors."""
    return next(filter(None, (_explain_answer(cause, repository, revision) for cause in chain(error))), None)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _explain_answer(error: BaseException, repository: str, revision: str | None) -> str | None:
    from huggingface_hub import constants, get_token, utils

    page = f"{constants.ENDPOINT}/{repository}"
    status = _status(error)
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
        account = "your login may not see it" if get_token() else "you are not logged in (`hf auth login`, or HF_TOKEN)"
        return f"the hub shows no repository '{repository}': check the name; if it is private or gated, {account}"
    if isinstance(error, utils.HFValidationError):
        return f"'{repository}' is not a name on the hub: write owner/name, such as {REPOSITORY}"
    if isinstance(error, utils.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it, {_WITHOUT_NETWORK}"
    if status == 401:
        return "the hub does not accept your token: run `hf auth login` again, or set HF_TOKEN to a valid one"
    if status == 403:
        reason = getattr(error, "server_message", None) or "no reason given"
        return f"the hub forbids the download of {repository} with your token ({reason}): see {page}"
    if status is not None and (status == 429 or status >= 500):
        return f"the hub is unavailable (status {status}): run the same command later, it resumes"
    return None


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _hidden(name: str) -> bool:
    """Whether a part starts with a dot: files of git and the hub, and ".."."""
    return name.startswith("/") or any(part.startswith(".") for part in PurePosixPath(name).parts)
