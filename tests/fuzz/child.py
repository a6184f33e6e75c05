"""One malformed input at a time in a child process, so that a hang or too much memory is a finding, not the end."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 10.0
"""Of the child's processor: the machine may be busy. One that waits for nothing gets `_PATIENCE` times as much."""
_PATIENCE = 12
GROWTH = 1.5e9  # bytes
_CAP = 8 * 2**30  # of address space beyond the start: protects the machine


class Outcome(NamedTuple):
    """What became of one input.

    Args:
        kind: "accepted", "refused", or a finding: "traceback", "hang", "memory", "partial output", "accepted damage".
        text: the sentence, or the traceback.
        growth: bytes of memory at the peak beyond those before.
    """

    kind: str
    text: str = ""
    growth: int = 0

    @property
    def finding(self) -> bool:
        return self.kind not in ("accepted", "refused")


class AcceptedDamageError(AssertionError):
    """Raised by a class's `run` for an input that is damaged and was read."""


class Child:
    """A process that runs cases, and is started again after a hang."""

    def __init__(self) -> None:
        self._start()

    def run(self, name: str, case: Any) -> Outcome:
        """One case of a class. The first of a class also prepares the class, for which there is no limit."""
        self._pipe.send((name, None))
        assert self._pipe.recv() == "ready"
        self._pipe.send((name, case))
        if not self._answers():
            self.close()
            self._start()
            return Outcome("hang", f"no answer after {SECONDS:.0f} s of the processor")
        try:
            outcome: Outcome = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Outcome("traceback", f"the process died with code {code}")
        return outcome

    def _answers(self) -> bool:
        start, pid = _processor_seconds(self._process.pid), self._process.pid
        for _ in range(int(SECONDS * _PATIENCE)):
            if self._pipe.poll(1):
                return True
            if _processor_seconds(pid) - start > SECONDS:
                return False
        return False

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()


def _serve(pipe: Any) -> None:
    from tests.fuzz.classes import CLASSES

    with tempfile.TemporaryDirectory() as folder:
        for number in range(10**9):
            try:
                name, case = pipe.recv()
            except EOFError:
                return
            kind, base = CLASSES[name], Path(folder) / name
            if case is None:
                if not base.exists():
                    kind.prepare(base)
                with contextlib.suppress(ValueError, OSError):  # not everywhere
                    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + _CAP, resource.RLIM_INFINITY))
                pipe.send("ready")
                continue
            here = Path(folder) / str(number)
            here.mkdir()
            pipe.send(_one(kind, case, here, base))
            shutil.rmtree(here, ignore_errors=True)


def _one(kind: Any, case: Any, folder: Path, base: Path) -> Outcome:
    from fast_sam3d.errors import FastSam3dError

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = _memory("VmRSS")
    said = io.StringIO()
    outcome = Outcome("accepted")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            kind.run(case, folder, base)
    except FastSam3dError as error:
        outcome = Outcome("refused", str(error))
        if not str(error).strip() or "\n" in str(error).strip():
            outcome = Outcome("traceback", f"not one sentence: {str(error)[:500]!r}")
    except AcceptedDamageError as error:
        outcome = Outcome("accepted damage", str(error))
    except BaseException:
        outcome = Outcome("traceback", traceback.format_exc()[-3000:])
    if "Traceback (most recent call last)" in said.getvalue():
        outcome = Outcome("traceback", said.getvalue()[-3000:])
    growth = max(_memory("VmHWM") - before, 0)
    if not outcome.finding and growth > GROWTH:
        outcome = Outcome("memory", f"{growth / 1e9:.1f} GB")
    output = folder / "output"
    left = [str(path.relative_to(folder)) for path in output.rglob("*")] if output.exists() else []
    if outcome.kind == "refused" and left:
        outcome = Outcome("partial output", f"{outcome.text}: {left}")
    return outcome._replace(growth=growth)


def _processor_seconds(pid: int) -> float:
    """Of a process, from /proc; 0 where there is none."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory(field: str) -> int:
    """Bytes, from /proc; 0 where there is none."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        return int(found[1]) * 1024 if found else 0
    return 0


if sys.platform == "win32":
    raise ImportError("the limits of a process need a Unix")
