"""The GPUs of this machine: as torch sees them, and as NVIDIA's driver does."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

__all__ = ["Gpu", "driver_gpus", "visible_gpu"]

_DRIVER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """`total` and `free` in bytes; `free` is None if unknown. `supported`: whether this torch has code for it."""

    name: str
    total: int
    free: int | None
    capability: str
    supported: bool = True


def visible_gpu(torch: Any, index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    try:
        free = int(torch.cuda.mem_get_info(index)[0])
    except Exception:  # a full GPU, or one in exclusive mode
        free = None
    supported = _runs_on(torch.cuda.get_arch_list(), 10 * about.major + about.minor)
    return Gpu(about.name, int(about.total_memory), free, f"{about.major}.{about.minor}", supported)


def _runs_on(builds: list[str], capability: int) -> bool:
    """Whether a torch with these builds ("sm_90": code; "compute_90": what the driver compiles) runs on a GPU."""
    known = [(kind, int(digits)) for kind, _, digits in (build.partition("_") for build in builds) if digits.isdigit()]
    return not known or any(
        version <= capability and (kind == "compute" or version // 10 == capability // 10) for kind, version in known
    )


def driver_gpus() -> tuple[Gpu, ...]:
    """The GPUs that NVIDIA's driver sees."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [row.split(", ") for row in done.stdout.splitlines()] if done.returncode == 0 else []
    return tuple(Gpu(row[0], int(row[1]) * 2**20, None, row[2]) for row in rows if len(row) == 3 and row[1].isdigit())
