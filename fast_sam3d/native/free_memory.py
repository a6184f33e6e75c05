"""Memory of a device that weights and activations can take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import torch

__all__ = ["free_bytes"]

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Limit and use of a container, of both versions of control groups."""
_UNKNOWN_SHARE: Final = 0.6
"""Of the main memory where the system does not say how much is free (macOS, Windows)."""


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device, cached blocks of torch included; None where it is unknown.

    CUDA and ROCm: what the driver says. MPS: of the size that the system recommends, what is not in use, and no more
    than the main memory has, which it shares. CPU: available main memory, within the limit of a container.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        recommended = getattr(torch.mps, "recommended_max_memory", None)
        most = [host_bytes()]
        if recommended is not None:
            most.append(int(recommended()) - int(torch.mps.driver_allocated_memory()))
        known = [size for size in most if size is not None]
        return max(0, min(known)) if known else None
    return host_bytes() if device.type == "cpu" else None


def host_bytes() -> int | None:
    """Available main memory in bytes, within the limit of a container; None where the system does not say."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    if not found:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            found.append(int(_UNKNOWN_SHARE * whole))
    for limit, used in _CGROUP:
        with contextlib.suppress(OSError, ValueError):  # not in a container, or "max"
            found.append(int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii")))
    return max(0, min(found)) if found else None
