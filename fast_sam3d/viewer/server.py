"""A small server for the viewer page and a result folder, on this machine only."""

from __future__ import annotations

import functools
import logging
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fast_sam3d.errors import InputError, OutputError
from fast_sam3d.viewer import PAGE, Pane, page_address

__all__ = ["HOST", "ViewerServer", "result_page"]

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
FILES = "/result/"  # the result's files are below it
MESHES = ("mesh.glb", "scene.glb")
SPLATS = (
    *(f"{name}{suffix}" for name in ("gaussians", "gaussians_4", "scene") for suffix in (".ply", ".spz", ".sog")),
)
POINTS = ("gaussians.glb", "gaussians_4.glb", "scene_gaussians.glb")  # shown as points, without other gaussians
KINDS = {".glb": "mesh", ".ply": "splats", ".spz": "splats", ".sog": "splats"}
TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".json": "application/json", ".glb": "model/gltf-binary", ".png": "image/png",
}  # fmt: skip
# The page's own scripts and what Spark needs (WebAssembly, workers from blobs); nothing from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"
)


def result_page(result: Path) -> tuple[Path, str]:
    """The folder to serve and the page's address, without host, for a result.

    Args:
        result: folder of an object or a scene, or one file (.glb, .ply, .spz, .sog).

    Raises:
        InputError: there is nothing to show.
    """
    kinds = " or ".join(KINDS)
    if result.is_file():
        if result.suffix.lower() not in KINDS:
            raise InputError(f"{result} cannot be shown: name a result folder, or a file that ends in {kinds}")
        folder, names = result.parent, [result.name]
    elif not result.is_dir():
        raise InputError(
            f"{result} is no folder or file: name a folder that infer or scene has written, or one of its files"
        )
    else:
        mesh = [name for name in MESHES if (result / name).is_file()][:1]
        splats = [name for name in (*SPLATS, *POINTS) if (result / name).is_file()][:1]
        folder, names = result, mesh + splats
    if not names:
        inside = sorted(p.parent.name for name in (*MESHES, *SPLATS) for p in result.glob(f"*/{name}"))
        hint = f": name one of the results in it, {', '.join(dict.fromkeys(inside))}"[:200] if inside else ""
        raise InputError(f"{result} holds no file that can be shown ({', '.join((*MESHES, *SPLATS[:3]))}){hint}")
    panes = [
        Pane(KINDS[Path(name).suffix.lower()], FILES + quote(name), "gaussians" if name in POINTS else "")  # type: ignore[arg-type]
        for name in names
    ]
    # That of a scene is the report of its first object.
    objects = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if result.is_dir() else []
    reports = ("report.json", *(f"{number}/report.json" for number in objects))
    pose, report = (
        next((FILES + name for name in found if result.is_dir() and (folder / name).is_file()), None)
        for found in (("pose.json", "scene.json"), reports)
    )
    title = result.name if result.is_file() else result.resolve().name
    return folder, page_address("/index.html", panes, pose=pose, report=report, title=title)


class ViewerServer(ThreadingHTTPServer):
    """Serves the page at / and a folder at /result/, for reading, to requests from this machine.

    Args:
        folder: whose files are served. port: 0: any free one.

    Raises:
        OutputError: the port is in use or not allowed.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        try:
            super().__init__((HOST, port), functools.partial(_Handler, folder=folder))
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"port {port} cannot be used ({reason}): choose another --port, or 0 for any") from error
        except OverflowError as error:
            raise OutputError(f"{port} is not a port: choose 1 to 65535, or 0 for any") from error

    @property
    def address(self) -> str:
        """http://127.0.0.1:PORT, without a slash at the end."""
        return f"http://{HOST}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle of a file is no error."""
        log.debug("a request from %s ended early", client_address, exc_info=True)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, folder: Path, **kwargs: Any) -> None:
        self._folder = folder
        super().__init__(*args, directory=str(PAGE.parent), **kwargs)

    def send_head(self) -> Any:
        # A page elsewhere can reach this machine under a name of its own; its requests carry that name.
        if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN, "only requests to 127.0.0.1 are answered")
        if urlsplit(self.path).path != "/" and not self._is_file():
            return self.send_error(HTTPStatus.NOT_FOUND, "no such file")
        return super().send_head()

    def _is_file(self) -> bool:
        try:
            return Path(self.translate_path(self.path)).is_file()
        except (OSError, ValueError):  # a name too long, or with a zero byte
            return False

    def translate_path(self, path: str) -> str:
        plain = unquote(urlsplit(path).path)
        if plain.startswith(FILES):
            target = (self._folder / plain[len(FILES) :]).resolve()
            return str(target) if target.is_relative_to(self._folder.resolve()) else ""
        return super().translate_path(path)

    def guess_type(self, path: Any) -> str:
        return TYPES.get(Path(path).suffix.lower(), "application/octet-stream")

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
