"""Sentences about what makes the numbers of a bench unreliable: few objects, a busy machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FEW_OBJECTS = 10
SHARE = 0.9
"""Of a core, below which runs of one thread have waited for others."""


def before(objects: int, processes: int, threads: int) -> list[str]:
    """What is known before the first run.

    Args:
        processes, threads: of the bench, threads in each process.
    """
    found = []
    if objects < FEW_OBJECTS:
        found.append(
            f"{objects} object{'s' * (objects != 1)}: too few to compare methods, and the standard errors mean little;"
            f" give --objects {FEW_OBJECTS} or more"
        )
    load, cores = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0), os.cpu_count() or 1
    if load + processes * threads > cores + 1:
        found.append(
            f"the load of the last minute is {load:.1f} on {cores} cores: while other programs run, seconds and"
            " speed-ups are unreliable"
        )
    return found


def after(rows: Sequence[Mapping[str, Any]], threads: int) -> list[str]:
    """What the runs show: of one thread each on a CPU that is idle, processor and clock agree.

    Args:
        rows: of runs on a CPU.
        threads: in each process; of several nothing can be said.
    """
    shares = [row["cpu_seconds"] / row["seconds"] for row in rows if not row["error"] and row.get("seconds", 0) > 0]
    share = statistics.median(shares) if shares and threads == 1 else 1.0
    if share >= SHARE:
        return []
    return [
        f"the machine was busy: the median run had {100 * share:.0f} % of a core, so seconds and speed-ups are"
        " unreliable; processor time suffers less"
    ]
