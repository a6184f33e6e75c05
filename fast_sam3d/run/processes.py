"""Work in forked processes: they share the loaded pipeline, and only results are sent back."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from threadpoolctl import threadpool_limits

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.interrupts import interrupts_deferred

__all__ = ["Lost", "can_fork", "in_forks"]

T = TypeVar("T")
R = TypeVar("R")

LEAVE_SECONDS = 10.0  # for a process to clean up after SIGTERM
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HELD = (signal.SIGINT, signal.SIGTERM)
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Lost(NamedTuple):
    """A process that died before it returned a result.

    Args:
        exitcode: of the process; -9 is signal 9.
    """

    exitcode: int

    def __str__(self) -> str:
        return f"signal {-self.exitcode}" if self.exitcode < 0 else f"exit code {self.exitcode}"


def can_fork() -> bool:
    """Whether forked processes work here: on Linux, without CUDA in use, and outside of a fork.

    Elsewhere system libraries do not survive a fork, or the processes would outlive a killed parent.
    """
    torch = sys.modules.get("torch")
    in_use = torch is not None and torch.cuda.is_initialized()
    return sys.platform == "linux" and not in_use and not multiprocessing.current_process().daemon


def in_forks(work: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[tuple[int, R | Lost]]:
    """Call `work` on each item in forked worker processes; each takes the next item when it has finished one.

    Each process has one thread, of torch and of numpy: OpenMP's threads do not survive a fork, and BLAS's would compete
    for the cores. Output and log go to the parent's streams. The processes end with the thread that takes the first
    result, so also if the parent is killed; they ignore Ctrl-C, which the parent handles.

    Args:
        work: called in the forks; it and the items are not pickled, but what it returns or raises is.
        processes: maximum number; fewer where there are fewer items or the system refuses to fork.

    Yields:
        The index of an item with its result, or `Lost`, in order of completion.

    Raises:
        Exception: that `work` raised, with the worker's traceback as its cause; a RuntimeError with its text if it
            cannot be pickled. The other processes are terminated and clean up.
        FastSam3dError: the system refuses to fork at all.
    """
    context = multiprocessing.get_context("fork")
    left = deque(range(len(items)))
    crew: dict[Connection, tuple[Any, int]] = {}

    def busy() -> list[Connection]:
        return [pipe for pipe, (_, index) in crew.items() if index >= 0]

    def hire() -> None:
        try:
            ours, theirs = context.Pipe()
            with theirs, _forking():
                process = context.Process(target=_serve, args=(theirs, work, items), daemon=True)
                process.start()
                hand_over(ours, process)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            if not busy():
                raise FastSam3dError(
                    f"cannot fork a process ({error.strerror}): end other processes, or use --workers 1"
                ) from error

    def hand_over(pipe: Connection, process: Any) -> None:
        crew[pipe] = process, left.popleft() if left else -1
        with contextlib.suppress(OSError):  # it has died meanwhile: `recv` notices
            pipe.send(crew[pipe][1])

    try:
        for _ in range(min(processes, len(items))):
            hire()
        while at_work := busy():
            for pipe in wait(at_work):
                assert isinstance(pipe, Connection)
                process, index = crew[pipe]
                try:
                    message = pipe.recv_bytes()
                except (EOFError, OSError):
                    process.join()
                    pipe.close()
                    del crew[pipe]
                    if left:
                        hire()
                    yield index, Lost(process.exitcode)
                    continue
                answer, trace = pickle.loads(message)
                if trace is not None:
                    raise answer from _InFork(trace)
                hand_over(pipe, process)
                yield index, answer
    except BaseException:
        for process, _ in crew.values():
            process.terminate()
        raise
    finally:
        for pipe, (process, _) in crew.items():
            process.join(LEAVE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


class _InFork(Exception):
    """Shows the traceback of the forked process above that of the parent."""

    def __str__(self) -> str:
        return f"in a forked process\n\n{self.args[0]}"


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Defer signals while forking: in the parent until the fork is done, in the child until its handlers are set.

    Python swallows exceptions that a handler raises during a fork. Blocking signals is not enough in the parent:
    its other threads still receive them.
    """
    with interrupts_deferred(), warnings.catch_warnings():
        # Python 3.12 warns about threads; those of torch and BLAS are not used in the child.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    _give_way()
    threadpool_limits(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    while (index := pipe.recv()) >= 0:
        # Plain pickle: that of pipes sends a handle to shared memory, which ends with this process.
        try:
            message = pickle.dumps((work(items[index]), None))
        except Exception as error:
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            message = pickle.dumps((_portable(error), trace))
        pipe.send_bytes(message)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # some exceptions pickle but do not unpickle
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # the parent died before prctl
        os._exit(1)


def _give_way() -> None:
    """Let the out-of-memory killer choose a fork, whose work can be repeated, before its parent or other programs."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(int(score.read_text()) + 500, 1000)))


def _leave(number: int, frame: object) -> None:
    """Raise, so that unfinished files are removed on the way out."""
    sys.exit(128 + number)
