"""kill -9 at random moments of a command or of its worker; the same command afterwards leaves the same files.

Linux only. Commands run in forks of this process, which has imported everything and has run each of them once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from fast_sam3d import cli
from tests.soak.folders import contents, difference

SMALL = ("pipeline.formats=[gaussian]",)
STEPS = ("pipeline.ss_steps=6", "pipeline.slat_steps=5")
COMMANDS: dict[str, tuple[str, ...]] = {
    "infer": ("infer", "--image_path", "pictures/a", "--enable_acceleration", *SMALL, *STEPS),
    "scene": ("scene", "--image_path", "pictures/a", *SMALL, *STEPS, "--workers", "2"),
    "bench": ("bench", "--image_path", "pictures", "--objects", "2", "--accelerate", "ss=fast_sam3d", "--samplers",
              "own", "--no_pictures", "--processes", "1", *SMALL),
    "tune": ("tune", "--image_path", "pictures", "--objects", "2", "--held_out", "1", "--minutes", "600", "--no_cache",
             "--no_picture", "--calls", "5,4", "pipeline.ss_steps=6", "pipeline.slat_steps=5"),
}  # fmt: skip
WORKERS: dict[str, tuple[str, ...]] = {
    "scene": COMMANDS["scene"],
    "bench": tuple("2" if word == "1" and COMMANDS["bench"][i - 1] == "--processes" else word
                   for i, word in enumerate(COMMANDS["bench"])),
}  # fmt: skip
"""Commands with worker processes."""
GIVE_UP = 600.0
"""Seconds after which a command counts as hanging."""
TICK = os.sysconf("SC_CLK_TCK")


def run(command: tuple[str, ...], folder: Path, log: Path) -> int:
    """Fork this process and run a command in it. Returns the process."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if command[0] == "bench":  # which makes 150 steps for each object
            sys.modules["__main__"] = importlib.import_module("tests.soak.stood_in")
        code = cli.main([*command, "--tag", str(log.parent / "mini"), "--output_dir", str(folder)])
    finally:
        os._exit(code)


def ended(pid: int, seconds: float = 0.0) -> int | None:
    """The exit code of a process, negative for a signal; None while it runs."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The worker processes of a process; helpers of multiprocessing are not among them."""
    found = []
    with contextlib.suppress(OSError):
        for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"resource_tracker" not in Path(f"/proc/{text}/cmdline").read_bytes():
                    found.append(int(text))
    return found


def processor_seconds(pid: int) -> float:
    """Of a process and its workers so far."""
    total = 0
    for number in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15] if number == pid else fields[11:13]))
    return total / TICK


def finish(command: tuple[str, ...], folder: Path, log: Path) -> str:
    """Run a command to its end. Returns what is wrong; empty: nothing."""
    for _ in range(20):
        pid = run(command, folder, log)
        code = ended(pid, GIVE_UP)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            ended(pid, 10.0)
            return f"hangs: no end after {GIVE_UP:g} s"
        if code == 2 and "another run is writing" in log.read_text().splitlines()[-1]:
            time.sleep(1.0)  # workers of the killed one, on a busy machine
            continue
        return "" if code == 0 else f"ends with {code}: {log.read_text().splitlines()[-1]}"
    return "the folder stays locked"


def campaign(name: str, worker: bool, moments: int, chance: random.Random, root: Path) -> Counter[str]:
    """Kill a command, or its worker, and compare. Returns how often it came to what.

    Args:
        root: with what `folders.inputs` wrote; the current folder.
    """
    command = (WORKERS if worker else COMMANDS)[name]
    title = f"{name}, {'a worker' if worker else 'the main process'}"
    log, folder = root / "log.txt", root / "out"
    began = os.times()
    if wrong := finish(command, folder, log):
        raise SystemExit(f"{title}: undisturbed, it {wrong}")
    wanted = contents(folder)
    now = os.times()
    spent = now.children_user + now.children_system - began.children_user - began.children_system
    shutil.rmtree(folder)
    found: Counter[str] = Counter()
    tries = 0
    while found["killed"] < moments and tries < 4 * moments:
        tries += 1
        moment = chance.uniform(0.0, spent)
        log.write_text("")
        pid = run(command, folder, log)
        victim, code = None, None
        while code is None and victim is None:
            code = ended(pid, 0.005)
            if processor_seconds(pid) >= moment and (there := children(pid) if worker else [pid]):
                victim = chance.choice(there)
                if worker:
                    time.sleep(0.05)  # until it runs its program, a helper of multiprocessing looks like a worker
                    victim = victim if victim in children(pid) else None
        if code is None and victim is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                found["killed"] += 1
            code = ended(pid, GIVE_UP)
            found[f"exit code {code}"] += 1
            if code is None:
                os.killpg(pid, signal.SIGKILL)
                ended(pid, 10.0)
        else:
            found["ended before"] += 1
        partly = sum(path.is_file() for path in folder.rglob("*")) if folder.exists() else 0
        if "Traceback" in log.read_text():
            found["traceback"] += 1
            print(log.read_text())
        log.write_text("")
        wrong = finish(command, folder, log) or difference(contents(folder), wanted)
        found["equal afterwards" if not wrong else "WRONG"] += 1
        if wrong:
            print(f"{title}: killed after {moment:.2f} of {spent:.2f} s, with {partly} files: {wrong}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{title}: {', '.join(f'{count} {what}' for what, count in sorted(found.items()))}", flush=True)
    return found
