"""How long SAM 3D Objects takes on a CPU, said before it is run."""

from __future__ import annotations

import time
from typing import Any, Final

__all__ = ["cpu_notice"]

TFLOP: Final = 570
"""Of an object of 10,000 voxels in 25 + 25 steps, by counted operations: 44 calls of the sparse structure's network
with 9.1 each, 38 of the structured latent's with 4.1, encoders and decoders."""
_SIZE: Final = (512, 1024, 1024)


def cpu_notice(settings: Any, half: Any) -> str | None:
    """A line about the time of one object on this CPU, from the speed of a matrix product; None for other sizes than
    the published ones.

    Args:
        settings: of the native runtime.
        half: torch dtype of half precision; None: float32.
    """
    import torch

    from fast_sam3d.native.settings import PUBLISHED

    if (settings.ss_flow, settings.slat_flow) != (PUBLISHED.ss_flow, PUBLISHED.slat_flow):
        return None
    speed = _flops(half)
    slow = "float16 is slow on a CPU, leave --dtype out; " if half is torch.float16 else ""
    return (
        f"on a CPU this takes long: {slow}an object of 10,000 voxels without a preset is about {TFLOP} TFLOP "
        f"(counted), {_duration(TFLOP * 1e12 / speed)} or more at the {speed / 1e9:.0f} GFLOP/s measured just now: "
        "--preset default or fast makes a third of the network calls or fewer, pipeline.ss_steps and "
        "pipeline.slat_steps set fewer steps, and a GPU is much faster"
    )


def _flops(half: Any) -> float:
    """Operations per second of a matrix product of linear layers' size, the best of at most three."""
    import torch

    rows, inner, columns = _SIZE
    left, right = (torch.ones(size, dtype=half or torch.float32) for size in ((rows, inner), (inner, columns)))
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begin)
        if best > 0.2:  # float16 on most CPUs
            break
    return 2 * rows * inner * columns / max(best, 1e-9)


def _duration(seconds: float) -> str:
    """In words."""
    return f"{seconds / 60:.0f} minutes" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"
