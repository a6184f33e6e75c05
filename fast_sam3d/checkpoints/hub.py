"""What the Hugging Face hub says of a checkpoint: its files, the user's login and access, and why it refuses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fast_sam3d.checkpoints.transfer import Dropped, Refused, fetch_json, request
from fast_sam3d.errors import CheckpointError, first_line

__all__ = [
    "PART", "REPOSITORY", "Listing", "RemoteFile", "access_problem", "address", "cached_folder", "explained",
    "list_files", "login",
]  # fmt: skip

REPOSITORY = "facebook/sam-3d-objects"
# Folder of the published repository with the content of checkpoints/<tag>; copies may have it at the top level.
_INNER = "checkpoints/"
_SETTINGS = "pipeline.yaml"
PART = ".part"  # ends the names of incomplete files
MAX_BYTES = 2**43  # of a file; the largest published one has 5 GB
MAX_FILES = 1000
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ACCOUNT = re.compile(r"[\w.-]{1,100}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./+-]{0,199}")
_PART = re.compile(r"""[^./\\:*?"<>|][^/\\:*?"<>|]{0,199}""")
_BAD_TOKEN = "Invalid credentials in Authorization header"
_WITHOUT_NETWORK = "or copy the folder from a computer that has it and give its path with --tag PATH"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub.

    Args:
        path: in the repository; no part of it starts with a dot or leads out of a folder.
        size: bytes.
        sha256: of the content, for files in LFS. blob: SHA-1 of the content as git stores it, for the others.
    """

    path: str
    size: int
    sha256: str | None = None
    blob: str | None = None


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
        CheckpointError: the hub refuses, its answer is not of the form of a listing, a name could lead out of a folder,
            there is no pipeline.yaml, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it, {_WITHOUT_NETWORK}")
    _check_asked(repository, revision)
    part = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    with explained(repository, revision):
        info = fetch_json(f"{constants.ENDPOINT}/api/models/{repository}{part}?blobs=true")
    try:
        commit = _of_form(_COMMIT, info["sha"])
        entries = {str(entry["rfilename"]): entry for entry in info["siblings"]}
        prefix = next((start for start in (_INNER, "") if start + _SETTINGS in entries), None)
        if prefix is None:
            raise CheckpointError(f"{repository} has no {_SETTINGS}: it is not a SAM 3D Objects checkpoint")
        files = [
            _remote_file(name, entry)
            for name, entry in entries.items()
            if name.startswith(prefix) and not _hidden(name)
        ]
        _check_apart([file.path for file in files])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the answer of {constants.ENDPOINT} is not that of a hub ({first_line(error)}): check HF_ENDPOINT"
        ) from error
    return Listing(repository, commit, prefix, tuple(sorted(files, key=lambda file: (file.size, file.path))))


def login() -> str:
    """Whether there is a login on the hub, and whose. A token is never shown."""
    from huggingface_hub import constants, get_token

    if get_token() is None:
        return "none (`hf auth login`, or HF_TOKEN)"
    try:
        return f"as {_of_form(_ACCOUNT, fetch_json(f'{constants.ENDPOINT}/api/whoami-v2')['name'])}"
    except (CheckpointError, KeyError, TypeError, ValueError) as error:  # or an answer without a name
        if isinstance(error, Refused) and error.status in (401, 403):
            return "a token was found, and the hub does not accept it"
        return "a token was found, and the hub did not say whose it is"


def access_problem(listing: Listing, revision: str | None) -> str | None:
    """Why the hub refuses the files to this login; None if it does not."""
    try:
        with explained(listing.repository, revision), request("HEAD", address(listing, listing.files[0])):
            return None
    except Dropped:
        raise
    except CheckpointError as error:
        return str(error)


def address(listing: Listing, file: RemoteFile) -> str:
    """Where a file is downloaded from."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(listing.repository, file.path, revision=listing.commit)


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


@contextlib.contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """Raises refusals of the hub with the cause and what to do."""
    try:
        yield
    except Refused as error:
        text = _explain(error, repository, revision)
        if text is None:
            raise
        raise CheckpointError(text) from error


def _explain(error: Refused, repository: str, revision: str | None) -> str | None:
    """One sentence, by the hub's error codes as in `huggingface_hub.utils.hf_raise_for_status`; None: unknown."""
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{repository}"
    if error.code == "GatedRepo" and get_token() is None:
        return (
            f"{repository} is gated and you are not logged in: accept the licence on {page} and wait until access is "
            "granted, run `hf auth login` (or set HF_TOKEN) with a token of the same account, then run this again"
        )
    if error.code == "GatedRepo":
        return (
            f"the account of your token has no access to {repository}: accept the licence on {page} and wait until "
            "access is granted, then run this again (a fine-grained token must also be allowed to read gated "
            "repositories; `hf auth whoami` says whose token it is)"
        )
    if error.code == "RevisionNotFound":
        return f"{repository} has no revision '{revision}': leave --revision out, or see {page}/commits/main"
    if error.code == "RepoNotFound" or (error.status == 401 and error.said != _BAD_TOKEN):
        account = "your login may not see it" if get_token() else "you are not logged in (`hf auth login`, or HF_TOKEN)"
        return f"the hub shows no repository '{repository}': check the name; if it is private or gated, {account}"
    if error.status == 401:
        return "the hub does not accept your token: run `hf auth login` again, or set HF_TOKEN to a valid one"
    if error.status == 403:
        reason = error.said or "no reason given"
        return f"the hub forbids the download of {repository} with your token ({reason}): see {page}"
    if error.status == 511:
        return "the network wants a login: open any page in a browser, log in, then run this again"
    if error.status == 429 or error.status >= 500:
        return f"the hub is unavailable (status {error.status}): run the same command later, it resumes"
    return None


def _check_asked(repository: str, revision: str | None) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise CheckpointError(
            f"'{repository}' is not a name on the hub: write owner/name, such as {REPOSITORY}"
        ) from error
    if revision is not None and not _REVISION.fullmatch(revision):
        raise CheckpointError(f"{revision!r} is not a revision: give a branch, tag or commit, or leave --revision out")


def _hidden(name: str) -> bool:
    """Whether a part starts with a dot: files of git and the hub."""
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _remote_file(name: str, entry: Mapping[str, Any]) -> RemoteFile:
    size, lfs = entry["size"], entry.get("lfs")
    if type(size) is not int or not 0 <= size < MAX_BYTES:
        raise ValueError(f"the size of {_shown(name)} is no number of bytes")
    parts = name.split("/")
    safe = all(_PART.fullmatch(part) and part.isprintable() and not part.endswith((".", " ")) for part in parts)
    if not safe or len(name) > 500 or len(parts) > 10:
        raise ValueError(f"{_shown(name)} is not the name of a file in a folder")
    if lfs is not None:
        return RemoteFile(name, size, sha256=_of_form(_SHA256, lfs["sha256"]))
    blob = entry.get("blobId")
    return RemoteFile(name, size, blob=None if blob is None else _of_form(_COMMIT, blob))


def _check_apart(names: Sequence[str]) -> None:
    """No file may be where another one has its folder, also on disks that know no case."""
    if len(names) > MAX_FILES:
        raise ValueError(f"{len(names)} files")
    taken = {name.lower() for name in names}
    above = {parent.as_posix() for name in taken for parent in PurePosixPath(name).parents}
    unfinished = {name + PART for name in taken}
    if len(taken) < len(names) or taken & (above | unfinished):
        raise ValueError("two files have the same place")


def _of_form(form: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{_shown(value)} is not of the form {form.pattern}")
    return value


def _shown(value: Any) -> str:
    return ascii(value)[:80]
