"""Work in processes forked from this one: they have all that it has, loaded models too, and only results are sent."""

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

LEAVE_SECONDS = 10.0  # that a process may take to clear up when it is told to end
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_HELD = (signal.SIGINT, signal.SIGTERM)
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Lost(NamedTuple):
    """A process that ended before it had an answer.

    Args:
        exitcode: of the process; -9 is signal 9.
    """

    exitcode: int

    def __str__(self) -> str:
        return f"signal {-self.exitcode}" if self.exitcode < 0 else f"exit code {self.exitcode}"


def can_fork() -> bool:
    """Whether forked processes can work here: on Linux, as long as CUDA is not in use, and in no fork already.

    Elsewhere the system's own libraries do not survive a fork, or nobody ends the processes if this one is killed.
    """
    torch = sys.modules.get("torch")
    in_use = torch is not None and torch.cuda.is_initialized()
    return sys.platform == "linux" and not in_use and not multiprocessing.current_process().daemon


def in_forks(work: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[tuple[int, R | Lost]]:
    """`work` of each item, by so many processes that each take the next one when they are done with one.

    Each has one thread, of torch as of numpy: OpenMP's others do not survive a fork, and BLAS's would wait for each
    other. What is printed or logged goes where it does here. They end with the thread that takes the first result, so
    also if this process is killed; Ctrl-C is this one's to handle.

    Args:
        work: called in the forks; neither it nor the items go through pickle, but what it returns or raises does.
        processes: at most; no more than there are items, or than the system gives.

    Yields:
        The index of an item with its result, or `Lost`, in the order in which they are done.

    Raises:
        Exception: what `work` has raised, with the traceback from there as its cause; a RuntimeError that tells of it
            where it does not go through pickle. The other processes are ended, and can clear up.
        FastSam3dError: the system gives no process at all.
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
                    f"the system forks no process ({error.strerror}): end others, or take --workers 1"
                ) from error

    def hand_over(pipe: Connection, process: Any) -> None:
        crew[pipe] = process, left.popleft() if left else -1
        with contextlib.suppress(OSError):  # it has died meanwhile, which `recv` will tell
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
    """Shows the traceback of a fork above that of this process."""

    def __str__(self) -> str:
        return f"in a forked process\n\n{self.args[0]}"


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Nothing interrupts the parent in between, and the fork gets no signal before it knows what to do with it.

    Python swallows what a handler raises in the midst of a fork. Holding signals back is not enough for the parent,
    whose other threads still take them.
    """
    with interrupts_deferred(), warnings.catch_warnings():
        # Python 3.12 warns of threads: those of the parent's that matter, torch's and BLAS's, are not used there.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    _give_way()
    threadpool_limits(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    while (index := pipe.recv()) >= 0:
        # Plain pickle: that of pipes sends a tensor's place, which goes with this process.
        try:
            message = pickle.dumps((work(items[index]), None))
        except Exception as error:
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            message = pickle.dumps((_portable(error), trace))
        pipe.send_bytes(message)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # some go in and do not come out
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # gone before it was asked for
        os._exit(1)


def _give_way() -> None:
    """Where memory runs out the system ends a fork, whose work can be done again, not its parent or another program."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(int(score.read_text()) + 500, 1000)))


def _leave(number: int, frame: object) -> None:
    """An exception, so that what is unfinished is removed on the way out."""
    sys.exit(128 + number)
