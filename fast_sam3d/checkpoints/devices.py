"""The device and the number type that are asked for, checked before anything is loaded."""

from __future__ import annotations

import platform
import warnings
from typing import Any, Final

from fast_sam3d.errors import CheckpointError, suggest

__all__ = ["half_problem", "torch_device", "torch_dtype"]

_MACOS: Final = (13, 3)
"""The first whose MPS has 3D convolutions (13.2), and cumulative sums and sorting of int64."""

_MACOS_BFLOAT16: Final = (14, 0)


def torch_device(device: Any) -> Any:
    """The torch device of that name, None: cuda if there is one, else cpu. Raises CheckpointError: not usable here."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"'{device}' is not a device: give cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device} was asked for and torch sees no CUDA GPU: use --device cpu")
    if chosen.type == "cuda" and chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise CheckpointError(f"there is no device {device}: torch sees {torch.cuda.device_count()} GPU(s)")
    if chosen.type == "mps" and _macos_before(_MACOS):
        raise CheckpointError(
            f"device mps of macOS {platform.mac_ver()[0]} lacks operators that the networks need: update to macOS "
            f"{'.'.join(map(str, _MACOS))} or later, or use --device cpu"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError("device mps was asked for and torch cannot use it here: use --device cpu")
    if chosen.type == "meta":
        raise CheckpointError("the device meta holds no data, so nothing can run on it: use --device cpu")
    if chosen.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=chosen).cpu()
        # Each backend that torch was built without raises its own error, AssertionError among them.
        except Exception as error:
            raise CheckpointError(
                f"device {device} was asked for and this torch cannot use it ({type(error).__name__}): use --device cpu"
            ) from error
    return chosen


def torch_dtype(dtype: Any) -> Any:
    """The torch dtype of that name; None and dtypes are returned unchanged. Raises CheckpointError: unknown."""
    import torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in (known := ("float32", "float16", "bfloat16")):
        raise CheckpointError(f"'{dtype}' is not a dtype: {suggest(str(dtype), known)}")
    return getattr(torch, dtype)


def half_problem(device: Any, half: Any) -> str | None:
    """Why autocast cannot run a half type on a device; None if it can, or on CUDA, which torch checks itself."""
    import torch

    if device.type == "cuda":
        return None
    kind = str(half).removeprefix("torch.")
    if device.type == "mps" and half is torch.bfloat16 and _macos_before(_MACOS_BFLOAT16):
        return f"{kind} on MPS needs macOS {_MACOS_BFLOAT16[0]}, and this is macOS {platform.mac_ver()[0]}"
    lacks = f"torch {torch.__version__} has no autocast to {kind} on device {device}"
    if not torch.amp.autocast_mode.is_autocast_available(device.type):
        return lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch switches off what it lacks, with a warning
        with torch.autocast(device.type, half):
            return None if torch.is_autocast_enabled(device.type) else lacks


def _macos_before(version: tuple[int, int]) -> bool:
    """Whether this is macOS, and an older one."""
    found = platform.mac_ver()[0]
    return bool(found) and tuple(int(part) for part in found.split(".")[:2]) < version
