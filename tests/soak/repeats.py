"""Many runs in one process, and random sequences of everything that changes a pipeline: same results, same memory."""

from __future__ import annotations

import copy
import gc
import itertools
import random
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

import fast_sam3d
from fast_sam3d.report import observe
from tests.beds import EMBEDDED, differing
from tests.contract import METHODS, Stop
from tests.fakes import same_vars, snapshot

WARM_UP = 50
"""Runs before the memory is looked at; libraries fill caches."""
WINDOW = 25
GROWTH = 0.01
OF_CALLS = 5
USED = [name for name in METHODS if "mesh" not in METHODS[name]]  # a mesh takes ten times as long as the rest


def resident() -> int:
    """Bytes of this process in memory, after a collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Memory:
    """Looks at the resident memory after each turn."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def look(self) -> None:
        self.seen.append(resident())

    def growth(self) -> float:
        """Relative, from the first turns after the warm-up to the last ones; 0 for too few turns."""
        seen = self.seen[WARM_UP:]
        if len(seen) < 2 * WINDOW:
            return 0.0
        return median(seen[-WINDOW:]) / median(seen[:WINDOW]) - 1.0

    def end(self, title: str, bad: int) -> int:
        """Prints the figures. Returns the number of things that are wrong."""
        first = median(self.seen[WARM_UP : WARM_UP + WINDOW] or self.seen) / 2**20
        growth = self.growth()
        print(f"{title}; memory grew by {growth:+.2%} of {first:.0f} MiB", flush=True)
        return bad + (growth > GROWTH)


def expected(pipeline: Any, known: dict[str, dict[str, Tensor]], name: str) -> dict[str, Tensor]:
    """The result of a method on a pipeline that nothing else was done to; "" is none."""
    if name not in known:
        fresh = EMBEDDED.build()
        EMBEDDED.run(fresh)  # the first run leaves settings on the samplers
        if name:
            fast_sam3d.accelerate(fresh, METHODS[name])
        known[name] = EMBEDDED.run(fresh)
    return known[name]


def runs(count: int) -> int:
    """Runs of one pipeline with every method in turn, each compared with its first. Returns how many differ."""
    pipeline, known, memory, bad = EMBEDDED.build(), {}, Memory(), 0
    names = ["", *USED]
    for name in names:
        expected(pipeline, known, name)
    for number in range(count):
        name = names[number % len(names)]
        handle = fast_sam3d.accelerate(pipeline, METHODS[name]) if name else None
        if number or name:
            bad += bool(differing(EMBEDDED.run(pipeline), known[name]))
        else:
            EMBEDDED.run(pipeline)
        if handle is not None:
            handle.remove()
        memory.look()
    return memory.end(f"runs: {count} with {len(names)} methods in turn, {bad} different", bad)


def sequences(count: int, chance: random.Random) -> int:
    """Random sequences of two to six changes, a run compared after each. Returns how many differ."""
    known: dict[str, dict[str, Tensor]] = {}
    for name in ("", *USED):
        expected(None, known, name)
    pipeline = EMBEDDED.build()
    EMBEDDED.run(pipeline)
    untouched = snapshot(pipeline)
    memory, bad, done = Memory(), 0, Counter[str]()
    for number in range(count):
        if wrong := _sequence(pipeline, known, chance, done):
            bad += 1
            print(f"sequence {number}: {wrong}", flush=True)
        if not same_vars(untouched, snapshot(pipeline)):
            bad += 1
            print(f"sequence {number}: the pipeline is not as it was", flush=True)
        memory.look()
    kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(done.items()))
    return memory.end(f"sequences: {count} ({kinds}), {bad} different", bad)


def _sequence(pipeline: Any, known: dict[str, dict[str, Tensor]], chance: random.Random, done: Counter[str]) -> str:
    """What was wrong; empty: nothing. The pipeline is restored."""
    steps: list[str] = []
    now, handles, observers = "", [], []
    for _ in range(chance.randint(2, 6)):
        kind = chance.choice(("accelerate", "remove", "restore", "deepcopy", "abort", "observe", "unobserve"))
        done[kind] += 1
        steps.append(kind)
        if kind == "accelerate":  # which replaces what is there
            now = chance.choice(USED)
            steps[-1] += f" {now}"
            handles.append(fast_sam3d.accelerate(pipeline, METHODS[now]))
        elif kind == "remove" and handles:
            handle = chance.choice(handles)
            now = "" if handle.active else now
            handle.remove()
        elif kind == "restore":
            fast_sam3d.restore(pipeline)
            now = ""
        elif kind == "deepcopy":
            twin = copy.deepcopy(pipeline)
            if differing(EMBEDDED.run(twin), known[now]):
                return f"the copy has another result after {', '.join(steps)}"
            fast_sam3d.restore(twin)
            if differing(EMBEDDED.run(twin), known[""]):
                return f"the copy is not restored after {', '.join(steps)}"
        elif kind == "abort":
            _abort(pipeline, chance)
        elif kind == "observe":
            observers.append(observe(pipeline))
            observers[-1].__enter__()
        elif kind == "unobserve" and observers:
            observers.pop(chance.randrange(len(observers))).__exit__(None, None, None)
        if chance.random() < 0.5 and differing(EMBEDDED.run(pipeline), known[now]):
            return f"another result after {', '.join(steps)}"
    for observer in observers:
        observer.__exit__(None, None, None)
    for handle in chance.sample(handles, len(handles)):
        handle.remove()
    different = differing(EMBEDDED.run(pipeline), known[""])
    return f"not restored after {', '.join(steps)}: {', '.join(sorted(different))}" if different else ""


def _abort(pipeline: Any, chance: random.Random) -> None:
    """A run that an error ends in one of the first network calls."""
    stage, last = chance.choice(("ss", "slat")), chance.randint(1, OF_CALLS)
    calls = itertools.count(1)

    def stop(module: Any, args: Any) -> None:
        if next(calls) == last:
            raise Stop

    hook = pipeline.models[f"{stage}_generator"].reverse_fn.backbone.register_forward_pre_hook(stop)
    try:
        EMBEDDED.run(pipeline, seed=3)
    except Stop:
        pass
    finally:
        hook.remove()
