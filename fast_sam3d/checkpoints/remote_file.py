"""One file of the hub: downloaded within its size, resumed, and compared with its hash before it gets its name."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from fast_sam3d.checkpoints.hub import PART, Listing, RemoteFile, address
from fast_sam3d.checkpoints.transfer import Answer, Dropped, request
from fast_sam3d.errors import CheckpointError

__all__ = ["fetch_file", "has_size", "human", "is_intact", "size_of", "unfinished"]

log = logging.getLogger(__name__)

RETRY_BYTES = 2**20  # a dropped connection is followed by another one if it brought so much, or a tenth of the file


def fetch_file(listing: Listing, file: RemoteFile, path: Path) -> None:
    """Download one file, resuming an incomplete one, again after each dropped connection that brought enough.

    `hf_hub_download` restarts incomplete files, and the largest have several gigabytes.
    """
    part = unfinished(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if size_of(part) > file.size:
        part.unlink()
    while not has_size(part, file.size):
        before = size_of(part)
        try:
            _append(listing, file, part)
        except Dropped:
            if size_of(part) - before < min(RETRY_BYTES, file.size // 10 + 1):
                raise
            log.info("the connection was dropped: resuming")
    if not is_intact(part, file):
        part.unlink()
        raise CheckpointError(f"{path.name} is corrupt: run the same command again to download this file again")
    part.replace(path)


def _append(listing: Listing, file: RemoteFile, part: Path) -> None:
    """Download the rest of a file, and never more than its size."""
    from huggingface_hub.utils import tqdm

    if file.size == 0:
        return part.touch()
    start, name = size_of(part), file.path.rpartition("/")[2]
    headers = {"Range": f"bytes={start}-"} if start else {}
    with request("GET", address(listing, file), headers, endless=True) as answer:
        start = _first_byte(answer, start, file)
        with (
            part.open("ab") as stream,
            tqdm(total=file.size, initial=start, unit="B", unit_scale=True, desc=name[-40:], disable=None) as bar,
        ):
            stream.truncate(start)
            for chunk in answer.chunks:
                start += len(chunk)
                if start > file.size:
                    break
                stream.write(chunk)
                bar.update(len(chunk))
    if start > file.size:
        part.unlink()
        raise CheckpointError(
            f"the hub sends more than the {file.size} bytes of {name}: check HF_ENDPOINT and the proxy"
        )
    if start < file.size:
        raise Dropped(f"the hub sent only a part of {name}: check the network and run the command again to resume")


def _first_byte(answer: Answer, start: int, file: RemoteFile) -> int:
    """Where the answer begins in the file.

    Raises:
        CheckpointError: it is not of that file; what is already here is kept.
    """
    length = answer.headers.get("Content-Length", "" if start else str(file.size))
    span = answer.headers.get("Content-Range", "").replace("/*", f"/{file.size}")
    if answer.status == 200 and length == str(file.size):
        return 0
    if answer.status == 206 and span == f"bytes {start}-{file.size - 1}/{file.size}":
        return start
    raise CheckpointError(
        f"the hub sent something else than {file.path.rpartition('/')[2]}, maybe a page of the network: log in to it "
        "in a browser, or check HF_ENDPOINT and the proxy, then run the same command again, it resumes"
    )


def unfinished(path: Path) -> Path:
    """Where a file is while it is incomplete."""
    return path.with_name(path.name + PART)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def has_size(path: Path, size: int) -> bool:
    """Whether there is a file of that size."""
    return path.is_file() and path.stat().st_size == size


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the size and the hash that the hub lists."""
    if not has_size(path, file.size):
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.blob is None:
        return True
    digest = hashlib.new("sha1" if len(file.blob) == 40 else "sha256", usedforsecurity=False)
    digest.update(b"blob %d\0" % file.size)  # as git names contents
    return _digest(path, digest) == file.blob


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def human(size: int) -> str:
    """A number of bytes for people."""
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"
