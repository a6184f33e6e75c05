"""Deferral of SIGINT and SIGTERM during a block that must not be interrupted, and what an interrupt reports."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from fast_sam3d.errors import Terminated

__all__ = ["interrupts_deferred", "on_interrupt"]


@contextlib.contextmanager
def on_interrupt(sentence: str) -> Iterator[None]:
    """An interrupt or a termination of the block reports `sentence`: where the finished part is, and how to resume."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        raise type(error)(sentence) from error


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block, then pass them to the previous handlers.

    Signals with the default action or ignored ones are not changed. No effect outside the main thread, which is the
    only one to receive signals.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    waiting: list[tuple[int, FrameType | None]] = []
    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
    try:
        for number in handlers:
            signal.signal(number, lambda received, frame: waiting.append((received, frame)))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            handlers[number](number, frame)
