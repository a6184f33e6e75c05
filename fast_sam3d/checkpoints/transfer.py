"""Requests to the hub with limits: of bytes, seconds, redirects and encodings.

The hub client's own calls read whatever a server sends, decompress it, and follow every redirect. Here its session is
used, so proxies and certificates are those of the client, but a thread reads and the caller counts.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from fast_sam3d import __version__
from fast_sam3d.documents import parse_json
from fast_sam3d.errors import CheckpointError, FastSam3dError, first_line

__all__ = ["Answer", "Dropped", "Refused", "fetch_json", "patience", "request"]

ANSWER_BYTES = 4 * 2**20  # of JSON; that of the published repository has a few thousand
ANSWER_SECONDS = 8.0  # without HF_HUB_ETAG_TIMEOUT or HF_HUB_DOWNLOAD_TIMEOUT, the client's own variables
PROGRESS_BYTES = 1000  # fewer in that time are no progress
REDIRECTS = 5
_CHUNK = 2**16
# Packages with exceptions for failed connections, in different versions of the hub client.
_TRANSPORTS = frozenset(
    {"h11", "hf_xet", "http", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"}
)
_OTHER = "check HF_ENDPOINT, the proxy and the network, then run this again"
_LOG_IN = "log in to the network in a browser, or check HF_ENDPOINT, then run this again"
_RESUMES = "check the network and run the command again to resume"


class Refused(CheckpointError):
    """The hub answered with an error: its status, and the X-Error-Code and X-Error-Message headers."""

    def __init__(self, url: str, status: int, code: str, said: str) -> None:
        super().__init__(f"{_host(url)} answered with status {status}{f' ({said})' if said else ''}: {_OTHER}")
        self.status, self.code, self.said = status, code, said


class Dropped(CheckpointError):
    """The connection failed, or brings no data."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with status 200 or 206: its headers, and its body as it arrives."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


def patience(variable: str) -> float:
    """Seconds to wait for data, from the client's setting ETAG_TIMEOUT or DOWNLOAD_TIMEOUT."""
    from huggingface_hub import constants

    given = float(getattr(constants, f"HF_HUB_{variable}"))
    return ANSWER_SECONDS if given == getattr(constants, f"DEFAULT_{variable}") else given


def fetch_json(url: str) -> Any:
    """The JSON document at an address, of at most `ANSWER_BYTES` within `patience`.

    Raises:
        CheckpointError: it cannot be had, or is no JSON.
    """
    body = bytearray()
    with request("GET", url) as answer:
        for chunk in answer.chunks:
            body += chunk
            if len(body) > ANSWER_BYTES:
                raise CheckpointError(f"{_host(url)} answered with more than {ANSWER_BYTES >> 20} MB: {_OTHER}")
    try:
        return parse_json(bytes(body), "the answer", error=CheckpointError, most_bytes=ANSWER_BYTES)
    except CheckpointError as error:
        got, advice = ("a web page", _LOG_IN) if body.lstrip()[:1] == b"<" else ("something that is no JSON", _OTHER)
        raise CheckpointError(f"{_host(url)} answered with {got} instead of the list of files: {advice}") from error


@contextlib.contextmanager
def request(method: str, url: str, headers: Mapping[str, str] | None = None, endless: bool = False) -> Iterator[Answer]:
    """Send a request with the user's login, and yield the answer while it arrives.

    Args:
        headers: further ones, such as Range.
        endless: whether the answer may take longer than `patience` while it brings `PROGRESS_BYTES` in that time.

    Raises:
        Refused: the hub answered with an error.
        Dropped: there is no connection, or it brings too little; also while the body is read.
        CheckpointError: any other answer.
    """
    from huggingface_hub.utils import get_session

    seconds = patience("DOWNLOAD_TIMEOUT" if endless else "ETAG_TIMEOUT")
    reader = _Reader(get_session(), method, url, headers or {}, seconds)
    threading.Thread(target=reader.run, name="hub", daemon=True).start()
    try:
        status, found = reader.take()
        yield _checked(url, status, found, reader.body(PROGRESS_BYTES if endless else None))
    finally:
        reader.stopped.set()


class _Reader:
    """A request in a thread: a server that sends its headers byte by byte keeps no limit of the client."""

    def __init__(self, session: Any, method: str, url: str, headers: Mapping[str, str], seconds: float) -> None:
        self._session, self._request, self._seconds = session, (method, url, headers), seconds
        self._items: queue.Queue[Any] = queue.Queue(16)
        self._deadline = time.monotonic() + seconds
        self.stopped = threading.Event()

    def run(self) -> None:
        """Put (status, headers), then the chunks of the body, then None; an error ends them."""
        try:
            self._follow()
        except Exception as error:  # raised by `take`, in the caller's thread
            self._put(error)

    def take(self) -> Any:
        """The next item."""
        try:
            item = self._items.get(timeout=max(self._deadline - time.monotonic(), 0.001))
        except queue.Empty:
            variable = "ETAG" if self._request[0] == "HEAD" else "DOWNLOAD"
            raise Dropped(
                f"{_host(self._request[1])} sent too little in {self._seconds:g} seconds: {_RESUMES}; on a slow "
                f"network set HF_HUB_ETAG_TIMEOUT and HF_HUB_{variable}_TIMEOUT to more seconds"
            ) from None
        if not isinstance(item, Exception):
            return item
        known = type(item).__module__.split(".", 1)[0] in _TRANSPORTS or isinstance(item, OSError)
        if known and not isinstance(item, FastSam3dError):
            raise Dropped(
                f"the download failed ({type(item).__name__}: {first_line(item)}): {_RESUMES}; without a network, copy "
                "the folder from a computer that has it and give --tag PATH"
            ) from item
        raise item

    def body(self, renewal: int | None) -> Iterator[bytes]:
        """The chunks; so many bytes move the deadline."""
        fresh = 0
        while (chunk := self.take()) is not None:
            fresh += len(chunk)
            if renewal is not None and fresh >= renewal:
                fresh, self._deadline = 0, time.monotonic() + self._seconds
            yield chunk

    def _put(self, item: Any) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                return self._items.put(item, timeout=0.2)

    def _follow(self) -> None:
        method, url, given = self._request
        headers = {**_login(), **given, "User-Agent": f"fast-sam3d/{__version__}", "Accept-Encoding": "identity"}
        for _ in range(REDIRECTS + 1):
            with _opened(self._session, method, url, headers, self._seconds) as (status, found, chunks):
                if not 300 <= status < 400 or "location" not in found:
                    self._put((status, found))
                    for chunk in chunks:
                        if self.stopped.is_set():
                            return
                        self._put(chunk)
                    return self._put(None)
            url, headers = _redirected(url, str(found["location"]), headers)
        raise CheckpointError(f"{_host(url)} redirects in a circle: {_OTHER}")


def _login() -> dict[str, str]:
    """The header with the user's token. `build_hf_headers` also fetches a list from the hub, without limits."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is not None and not (token.isascii() and token.isprintable()):
        raise CheckpointError("the login has characters that no token has: run `hf auth login` again, or set HF_TOKEN")
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _opened(
    session: Any, method: str, url: str, headers: dict[str, str], seconds: float
) -> AbstractContextManager[tuple[int, Mapping[str, str], Iterator[bytes]]]:
    """An open answer with its body as sent. The client's session is of httpx, before version 1.0 of requests."""

    @contextlib.contextmanager
    def of_httpx() -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        with session.stream(method, url, headers=headers, timeout=seconds, follow_redirects=False) as response:
            yield response.status_code, response.headers, response.iter_raw()

    @contextlib.contextmanager
    def of_requests() -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        options = {"headers": headers, "timeout": seconds, "stream": True, "allow_redirects": False}
        with session.request(method, url, **options) as response:
            yield response.status_code, response.headers, response.raw.stream(_CHUNK, decode_content=False)

    return of_httpx() if callable(getattr(session, "stream", None)) else of_requests()


def _redirected(url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The next address and its headers: another server does not get the login."""
    try:
        target = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(target)
        same = (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port)
    except ValueError as error:
        raise CheckpointError(f"{_host(url)} redirects to no address: {_OTHER}") from error
    if after.scheme not in ("https", before.scheme):
        raise CheckpointError(f"{_host(url)} redirects to an address without encryption: {_OTHER}")
    return target, headers if same else {key: value for key, value in headers.items() if key.lower() != "authorization"}


def _checked(url: str, status: int, headers: Mapping[str, str], chunks: Iterator[bytes]) -> Answer:
    if status >= 400:
        code = str(headers.get("X-Error-Code") or "")
        said = re.sub(r"[^ -~]", "?", str(headers.get("X-Error-Message") or ""))[:200]
        raise Refused(url, status, code, said)
    if status not in (200, 206):
        raise CheckpointError(f"{_host(url)} answered with status {status}, which no hub does: {_OTHER}")
    if headers.get("Content-Encoding", "identity") not in ("", "identity"):
        raise CheckpointError(f"{_host(url)} answered in a compressed form that was not asked for: {_OTHER}")
    return Answer(status, headers, chunks)


def _host(url: str) -> str:
    return f"the hub at {url.split('/', 3)[2]}" if url.count("/") > 1 else "the hub"
