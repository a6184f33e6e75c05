"""Serves the page, the viewer and the files of results, on this computer alone unless something else is asked for."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_sam3d.errors import ConfigError, FastSam3dError

if TYPE_CHECKING:
    from fast_sam3d.demo.engine import Engine
    from fast_sam3d.segment.sam2 import Sam2

__all__ = ["PORT", "Served", "check_gradio", "free_port", "serving"]

log = logging.getLogger(__name__)

PORT = 7860
TRIED = 20
"""Ports from `PORT` on, of which the first free one is taken where none is named."""
LARGEST = "256mb"
"""Of an uploaded file."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
START_SECONDS = 5
"""After these the model is loaded even if no page was opened."""
SESSIONS = 50
"""Pages whose pictures stay in memory at once."""
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]


class Served(NamedTuple):
    """Where the page is.

    Args:
        local: its address on this computer.
        public: the public link, if one was asked for.
    """

    local: str
    public: str | None


def check_gradio() -> None:
    """Raises ConfigError unless Gradio is installed, in a version that the page can use."""
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(f'the demo needs Gradio ({error}): pip install "fast-sam3d[demo]"') from error
    if int(gradio.__version__.split(".")[0]) < 6:
        raise ConfigError(f'the demo needs Gradio 6, and {gradio.__version__} is here: pip install "gradio>=6"')


def free_port(host: str, port: int | None = None) -> int:
    """A port that can be used: the given one, or the first free one from `PORT` on.

    Raises:
        ConfigError: it is in use, or the host is not one of this computer.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"port {port} does not exist: give one between 1 and 65535")
    for number in range(PORT, PORT + TRIED) if port is None else [port]:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, number))
                return probe.getsockname()[1] if number == 0 else number
        except (socket.gaierror, UnicodeError) as error:
            raise ConfigError(f"--host {host} is not an address of this computer: give 127.0.0.1 or 0.0.0.0") from error
        except PermissionError as error:
            raise ConfigError(f"port {number} may not be used ({error.strerror}): give a --port above 1023") from error
        except OSError as error:
            if error.errno not in _IN_USE:
                raise ConfigError(f"--host {host} cannot be used here ({error.strerror}): give 127.0.0.1") from error
    if port is None:
        raise ConfigError(f"ports {PORT} to {PORT + TRIED - 1} are all in use: give a free one with --port")
    raise ConfigError(f"port {port} is in use: end the other program, or give another --port")


_IN_USE = {98, 48, 10048}  # EADDRINUSE of Linux, macOS and Windows


@contextmanager
def serving(
    engine: Engine, host: str = "127.0.0.1", port: int | None = None, share: bool = False, sam2: Sam2 | None = None
) -> Iterator[Served]:
    """Serve the page until the block ends.

    Args:
        port: None: the first free one from `PORT` on.
        share: also by a public link, through Gradio's servers.
        sam2: selects objects in place of the cut.

    Raises:
        ConfigError: the port is in use, Gradio is not installed, or there is no public link.
    """
    check_gradio()
    port = free_port(host, port)
    import gradio as gr

    from fast_sam3d.demo.api import add_api
    from fast_sam3d.demo.page import STATIC, Page

    page = Page(engine, sam2)
    add_api(page)
    try:
        try:
            app, local, public = page.blocks.launch(
                server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, show_error=True,
                footer_links=["api"], css=(STATIC / "page.css").read_text(encoding="utf-8"), ssr_mode=False,
                theme=gr.themes.Default(font=FONT, font_mono=MONO), max_file_size=LARGEST,
                state_session_capacity=SESSIONS, enable_monitoring=False, max_threads=80,
                app_kwargs={} if share or host not in LOOPBACK else _own_names_only(),
            )  # fmt: skip
        except OSError as error:  # another program was quicker since `free_port`
            raise ConfigError(
                f"port {port} has just been taken: start the demo again, or give another --port"
            ) from error
        _add_routes(app, engine)
        # The first page that is drawn starts the engine, so that it does not wait for the processor.
        later = threading.Timer(START_SECONDS, engine.start)
        later.daemon = True
        later.start()
        if share and public is None:
            raise ConfigError("Gradio gives no public link now: start without --share, or try again later")
        threading.Thread(target=_warm_up, args=(engine,), daemon=True).start()
        yield Served(local, public)
    finally:
        page.blocks.close(verbose=False)


def _own_names_only() -> dict[str, Any]:
    """Refuse requests that name another host: a page elsewhere that points a name of its own at this computer."""
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse

    def guarded(app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            named = dict(scope.get("headers") or ()).get(b"host", b"").decode("latin-1").lower()
            if scope["type"] != "http" or re.sub(r":\d*$", "", named).strip("[]") in LOOPBACK:
                await app(scope, receive, send)
            else:
                text = "only requests to 127.0.0.1 are answered: start the demo with --host to serve the network\n"
                await PlainTextResponse(text, 403)(scope, receive, send)

        return answer

    return {"middleware": [Middleware(guarded)]}


def _warm_up(engine: Engine) -> None:
    """Import what the first click needs, once the model is there, so that it does not wait."""
    import numpy as np

    from fast_sam3d.segment.select import Click, Marks, Selector

    engine.wait_until_loaded()
    with suppress(FastSam3dError):
        Selector(np.zeros((32, 32, 3), np.uint8)).select(Marks((Click(16, 16),)))


def _add_routes(app: Any, engine: Engine) -> None:
    """The viewer under /viewer, and the files of jobs that the engine knows under /results."""
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.staticfiles import StaticFiles

    from fast_sam3d.viewer import PAGE

    def result(request: Request) -> Response:
        try:
            path = file_of(engine, request.path_params["job"], request.path_params["path"])
        except (FastSam3dError, OSError) as error:
            return PlainTextResponse(str(error), 507)
        if path is None:
            return PlainTextResponse("this result is not kept any longer: run it again", 404)
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    app.add_route("/results/{job}/{path:path}", result)
    app.mount("/viewer", StaticFiles(directory=PAGE.parent))


def file_of(engine: Engine, name: str, inside: str) -> Path | None:
    """A file of a job; "all.zip" is everything. None if there is none."""
    job = engine.job(name) if re.fullmatch(r"[0-9a-f]{12}", name) else None
    if job is None:
        return None
    if inside == "all.zip":
        return None if job.results is None else job.results.archive()
    folder = next(engine.folders.root.glob(f"*-{name}"), None)
    if folder is None:
        return None
    try:
        path = (folder / inside).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return None
