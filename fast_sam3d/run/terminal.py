"""Lines that other code writes to the terminal while a bar is drawn there."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LinesAbove"]


class LinesAbove(AbstractContextManager["LinesAbove"]):
    """Prints what is written to the error stream, and to a terminal's standard output, above a bar, line by line.

    It replaces `write` of the streams, not the streams: loguru, which the stock pipeline logs with, and the handlers
    of `logging` hold the stream that was there when they were created. Warnings, `print` and bars of tqdm, of which
    the last state is printed, are written through it as well. Text of C libraries is not.

    A context manager, and `close` may be called in any order.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(file=_Raw(sys.stderr), force_terminal=True)  # type: ignore[arg-type]
        """To draw the bar on."""
        writes = [write for write in map(_Write.of, _streams()) if write is not None]
        self._open = [(write, _Lines(self.console)) for write in writes]
        for write, lines in self._open:
            write.receivers.append(lines)

    def close(self) -> None:
        """Restore the streams; the bar must have been taken off. A last line without an end is written too."""
        while self._open:
            write, lines = self._open.pop()
            write.remove(lines)

    def __exit__(self, *details: object) -> None:
        self.close()


def _streams() -> list[TextIO]:
    return [sys.stderr, sys.stdout] if sys.stdout is not None and sys.stdout.isatty() else [sys.stderr]


class _Lines:
    """Prints whole lines on a console and keeps the rest."""

    def __init__(self, console: Console) -> None:
        from rich.ansi import AnsiDecoder

        self._console, self._decoder = console, AnsiDecoder()
        self.rest = ""

    def write(self, text: str) -> None:
        from rich.text import Text

        *lines, self.rest = (self.rest + text).split("\n")
        if lines:
            # The decoder drops what is before a carriage return, as a terminal would.
            whole = Text("\n").join(self._decoder.decode_line(line.rstrip("\r")) for line in lines)
            self._console.print(whole, soft_wrap=True)


class _Write:
    """Takes the place of `write` of a stream, and passes text to the newest of its receivers."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.raw = stream, stream.write
        self.receivers: list[_Lines] = []

    @classmethod
    def of(cls, stream: TextIO) -> _Write | None:
        """The one of a stream, installed if need be; None where the stream's attributes cannot be set."""
        if isinstance(stream.write, cls):
            return stream.write
        shared = cls(stream)
        try:
            stream.write = shared  # type: ignore[method-assign, assignment]
        except (AttributeError, TypeError):
            return None
        return shared

    def __call__(self, text: str) -> int:
        if not self.receivers:
            return self.raw(text)
        self.receivers[-1].write(text)
        return len(text)

    def remove(self, lines: _Lines) -> None:
        self.receivers.remove(lines)
        if lines.rest.strip():
            self(lines.rest)
        if not self.receivers and getattr(self.stream, "write", None) is self:
            del self.stream.write


class _Raw:
    """A stream whose `write` is the original one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        write = self._stream.write
        return write.raw(text) if isinstance(write, _Write) else write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
