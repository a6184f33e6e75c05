"""A process pool that ignores Ctrl-C and ends with its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fast_sam3d.errors import FastSam3dError


@contextlib.contextmanager
def worker_pool(processes: int, initializer: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes. On an exception, pending work is cancelled and the processes are terminated.

    Args:
        processes: their number.
        initializer: called once in each, with the arguments.

    Raises:
        FastSam3dError: one of them died.
    """
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, _begin, (initializer, *arguments))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise FastSam3dError(
                "a worker process was killed, perhaps because the memory is full: the same command resumes with what "
                "is not finished; fewer --processes need less memory"
            ) from error
        raise
    finally:
        pool.shutdown()


def follow_parent() -> None:
    """Set a worker process up to end with its parent, which cannot stop it once killed.

    Ctrl-C is ignored: a terminal sends it to the whole group, and the parent decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _begin(initializer: Callable[..., None], *arguments: Any) -> None:
    follow_parent()
    initializer(*arguments)
