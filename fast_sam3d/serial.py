"""One run at a time in a process: a second thread waits for the end of the first one's run.

A run seeds torch's random generator, which the whole process shares, and sets its steps on the pipeline's samplers. So
two runs at once, of one pipeline or of two, would disturb each other's noise and settings. Processes are not affected.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_at_a_time"]

log = logging.getLogger(__name__)

# Of the process, as torch's generator is. Not an attribute of pipelines, which must stay picklable.
_lock = threading.RLock()
_holder: int | None = None


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """A block that one thread at a time is in; also a decorator. The same thread may enter it again.

    A thread that has to wait logs one line. Ctrl-C ends the wait.
    """
    global _holder
    lock, own = _lock, threading.get_ident()
    if _holder not in (None, own):
        log.info("another thread runs a pipeline: waiting for the end of its run")
    with lock:
        outer, _holder = _holder, own
        try:
            yield
        finally:
            _holder = outer


def _after_fork() -> None:
    """A fork has only the thread that forked: what another one held would never be released."""
    global _lock, _holder
    _lock, _holder = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
