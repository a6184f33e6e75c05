"""A local HTTP server with the responses of the hub that a download needs: listing, files, owner of a token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Raw:
    """An answer that no hub gives.

    Args:
        body: pieces are sent one by one; an iterator may have no end.
        close: whether the answer is without a length, and ends with the connection.
        pause: seconds before the headers.
    """

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    pause: float = 0.0


@dataclass
class FakeHub:
    """One repository.

    Args:
        files: name to content.
        refusal: (status, X-Error-Code, message) of every response for a file; None: files are served.
        missing: whether the repository does not exist.
        tokens: the accepted tokens; empty: no token is required.
        drop_after: name to the number of bytes after which the connection is cut, once.
        damage: the names of files that arrive with another content of the same length.
        listing: replaces the keys of the listing. entry: replaces the keys of every file of it.
        answers: the end of a path to the answer that it gets instead.
    """

    files: dict[str, bytes]
    repository: str = "facebook/sam-3d-objects"
    refusal: tuple[int, str, str] | None = None
    missing: bool = False
    tokens: set[str] = field(default_factory=set)
    drop_after: dict[str, int] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    listing: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Raw] = field(default_factory=dict)
    logins: set[str | None] = field(default_factory=set)  # the Authorization headers
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *details: None  # type: ignore[method-assign]  # clients may hang up
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fetched(self, name: str) -> list[str | None]:
        """The Range of every GET of one file."""
        return [span for path, span in self.requests if path.endswith("/" + name)]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        if request.command == "GET":
            self.requests.append((path, request.headers.get("Range")))
        self.logins.add(request.headers.get("Authorization"))
        for end, raw in self.answers.items():
            if path.endswith(end):
                return self._send_raw(request, raw)
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.missing:
            return self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        if path == "/api/whoami-v2":
            known = token in self.tokens
            return self._send(request, 200 if known else 401, b'{"name": "someone"}' if known else b"", {})
        if path.startswith(f"/api/models/{self.repository}"):
            revision = path.partition("/revision/")[2]
            if revision not in ("", "main", COMMIT):
                return self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            listing = [self._describe(name) for name in self.files]
            answer = {"id": self.repository, "sha": COMMIT, "siblings": listing, **self.listing}
            return self._send(request, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        name = re.sub(rf"^/{self.repository}/resolve/(main|{COMMIT})/", "", path)
        if self.refusal is not None:
            status, code, said = self.refusal
            return self._send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": said} if code else {})
        if self.tokens and token not in self.tokens:
            return self._send(request, 401, b"", {"X-Error-Code": "GatedRepo"})
        if name not in self.files:
            return self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._send_file(request, name)

    def _describe(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        described: dict[str, Any] = {"rfilename": name, "size": len(content)}
        if not name.endswith((".yaml", ".md", ".gitattributes")):
            checksum = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"size": len(content), "sha256": checksum, "pointerSize": 130}
        else:
            described["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {**described, **self.entry}

    def _send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        content = bytes(len(self.files[name])) if name in self.damage else self.files[name]
        headers = {
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        }
        span = request.headers.get("Range")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.drop_after.pop(name, None) if request.command == "GET" else None
        self._send(request, 206 if start else 200, content[start:], headers, cut)

    def _send_raw(self, request: BaseHTTPRequestHandler, raw: Raw) -> None:
        time.sleep(raw.pause)
        request.send_response(raw.status)
        for key, value in raw.headers.items():
            request.send_header(key, value)
        if raw.close or not isinstance(raw.body, bytes):
            request.close_connection = True
        else:
            request.send_header("Content-Length", str(len(raw.body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):
            for piece in [raw.body] if isinstance(raw.body, bytes) else raw.body:
                request.wfile.write(piece)

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            request.close_connection = True
