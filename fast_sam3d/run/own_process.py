"""A call in a process of its own, which can be ended in the middle; compiled code cannot be interrupted in this one."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from fast_sam3d.errors import ExportError, FastSam3dError

__all__ = ["Call", "here", "in_own_process"]

Call = Callable[..., Any]
"""Calls a function with arguments: `call(function, *arguments)`."""

LOOK_SECONDS = 0.1
"""Between two looks at whether the call is still wanted."""
NICENESS = 5
"""Of the process, so that the browser and the server go first."""
CHILD = "from fast_sam3d.run.own_process import _answer; _answer()"


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in this process."""
    return function(*arguments)


def in_own_process(check: Callable[[], None], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process of low priority, and return what it returns.

    The process is killed when `check` raises. The global interpreter lock stays free meanwhile, and the memory of the
    call is the system's again after it.

    Args:
        check: called every tenth of a second; raises if the result is not wanted any longer.
        function: of a module; it, its arguments and its result are pickled.

    Raises:
        FastSam3dError: of the call, as it raised it.
        ExportError: the process died.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        pickle.dump((function, arguments), asked, protocol=pickle.HIGHEST_PROTOCOL)
        asked.seek(0)
        with subprocess.Popen([sys.executable, "-c", CHILD], stdin=asked, stdout=answered, env=environment) as child:
            try:
                while child.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(LOOK_SECONDS)
                    check()
            except BaseException:
                child.kill()
                raise
        answered.seek(0)
        try:
            failed, value = pickle.load(answered)
        except (EOFError, pickle.UnpicklingError) as error:
            raise ExportError(
                f"the process of {function.__name__} ended with exit code {child.returncode}: it may lack memory"
            ) from error
    if failed:
        raise value
    return value


def _answer() -> None:
    """What the process does: read a call, write its result or its error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group, and the parent decides
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        message = False, function(*arguments)
    except FastSam3dError as error:
        message = True, error
    pickle.dump(message, answer, protocol=pickle.HIGHEST_PROTOCOL)
