"""Which runtime a checkpoint of SAM 3D Objects gets: the stock classes, or the native ones of this package."""

from __future__ import annotations

from typing import Any, Literal

from fast_sam3d.checkpoints.packages import holds, importable
from fast_sam3d.checkpoints.requirements import FORK_MARK, REQUIREMENTS
from fast_sam3d.config.compose import RUNTIMES
from fast_sam3d.errors import CheckpointError, suggest

__all__ = ["Runtime", "choose_runtime", "stock_problem"]

Runtime = Literal["stock", "native"]


def choose_runtime(asked: str, device: Any) -> tuple[Runtime, str]:
    """The runtime and why.

    Args:
        asked: of `RUNTIMES`; "auto" takes stock where its packages and an NVIDIA GPU are there, else native.
        device: torch device that the pipeline is meant for.

    Raises:
        CheckpointError: there is no such runtime.
    """
    if asked not in RUNTIMES:
        raise CheckpointError(f"there is no runtime '{asked}': {suggest(asked, RUNTIMES)}")
    if asked != "auto":
        return ("stock" if asked == "stock" else "native"), "it was asked for"
    problem = stock_problem(device)
    if problem is None:
        return "stock", "the packages of SAM 3D Objects and an NVIDIA GPU are there"
    return "native", f"the stock runtime cannot be used ({problem})"


def stock_problem(device: Any) -> str | None:
    """Why the stock classes cannot run on a device; None if they can. Imports none of them."""
    import torch

    if device.type != "cuda" or torch.version.hip is not None:
        kind = f"device {device}" if device.type != "cuda" else "an AMD GPU"
        return f"it needs an NVIDIA GPU, not {kind}"
    missing = [part.module for part in REQUIREMENTS if not part.optional and not importable(part.module)]
    if missing:
        more = f" and {len(missing) - 1} more packages" if missing[1:] else ""
        return f"{missing[0]}{more} {'are' if more else 'is'} not installed"
    return "sam3d_objects is the Fast-SAM3D fork's" if holds(FORK_MARK) else None
