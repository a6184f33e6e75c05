"""Work in forked processes: they share the loaded pipeline, and only results are sent back."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import pickle
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from threadpoolctl import threadpool_limits

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.interrupts import interrupts_deferred
from fast_sam3d.run.pool import follow_parent

__all__ = ["Lost", "can_fork", "in_forks"]

T = TypeVar("T")
R = TypeVar("R")

LEAVE_SECONDS = 10.0  # for a process to clean up after SIGTERM
_NO_MORE = -1  # instead of the index of an item
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
    for the cores. Output and log go to the parent's streams. The processes end with the parent, also if it is
    killed; they ignore Ctrl-C, which the parent handles.

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
    crew: dict[Connection, tuple[Any, int]] = {}  # with the item that each process works on

    def hire() -> None:
        try:
            ours, theirs = context.Pipe()
            with theirs, _forking():
                process = context.Process(target=_serve, args=(theirs, work, items), daemon=True)
                process.start()
                assign(ours, process)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            if not crew:
                raise FastSam3dError(
                    f"cannot fork a process ({error.strerror}): end other processes, or use --workers 1"
                ) from error

    def assign(pipe: Connection, process: Any) -> None:
        crew[pipe] = process, left.popleft()
        with contextlib.suppress(OSError):  # it has died meanwhile: `recv_bytes` notices
            pipe.send(crew[pipe][1])

    def dismiss(pipe: Connection) -> None:
        process, _ = crew.pop(pipe)
        with pipe, contextlib.suppress(OSError):
            pipe.send(_NO_MORE)  # not by closing it: later forks have copies of this end
        process.join(LEAVE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()

    try:
        for _ in range(min(processes, len(items))):
            hire()
        while crew:
            for pipe in wait(list(crew)):
                assert isinstance(pipe, Connection)
                process, index = crew[pipe]
                try:
                    message = pipe.recv_bytes()
                except (EOFError, OSError):
                    dismiss(pipe)
                    if left:
                        hire()
                    yield index, Lost(process.exitcode)
                    continue
                answer, failed = pickle.loads(message)
                if failed:
                    raise answer
                if left:
                    assign(pipe, process)
                else:
                    dismiss(pipe)
                yield index, answer
    finally:
        for process, _ in crew.values():
            process.terminate()
        for pipe in list(crew):
            dismiss(pipe)


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
    follow_parent()
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    _give_way()
    threadpool_limits(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    while (index := pipe.recv()) != _NO_MORE:
        # Plain pickle: that of pipes sends a handle to shared memory, which ends with this process.
        try:
            message = pickle.dumps((work(items[index]), False))
        except Exception as error:
            message = pickle.dumps((ExceptionWithTraceback(_portable(error), error.__traceback__), True))
        pipe.send_bytes(message)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # some exceptions pickle but do not unpickle
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _give_way() -> None:
    """Let the out-of-memory killer choose a fork, as its work can be repeated, before its parent or other programs."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(int(score.read_text()) + 500, 1000)))


def _leave(number: int, frame: object) -> None:
    """Raise, so that unfinished files are removed at exit."""
    sys.exit(128 + number)
