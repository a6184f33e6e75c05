"""Errors that the user can fix. Each message is one sentence that says what to do."""

from __future__ import annotations

import difflib
import errno
import re
import sys
from collections.abc import Iterable

__all__ = [
    "CheckpointError", "ConfigError", "ExportError", "FastSam3dError", "InputError", "OutputError", "Terminated",
    "first_line", "is_out_of_memory", "not_finite", "nothing_found", "one_line", "suggest",
]  # fmt: skip


_LONGEST, _KEPT = 2000, 400


class FastSam3dError(ValueError):
    """Base of all errors about the user's input; the command line exits with 2.

    A message of more than 2,000 characters, which quotes a long value, is cut in the middle.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_KEPT]} … {message[-_KEPT:]}")


class Terminated(BaseException):
    """Raised on SIGTERM by the command line, so that unfinished files are removed at exit."""


def nothing_found(finite: bool) -> FastSam3dError:
    """The error about a sparse structure without a voxel; `finite`: whether its logits are."""
    if finite:
        return FastSam3dError("the model found no object in this picture: try another seed, mask or pointmap")
    return FastSam3dError(
        "the logits of the sparse structure are not finite: run in float32 or bfloat16, or check the weights"
    )


def not_finite(what: str) -> FastSam3dError:
    """The error about a result with NaN or infinite values, which nothing may be made of."""
    return FastSam3dError(f"the {what} is not finite: run in float32 or bfloat16, or check the weights")


class InputError(FastSam3dError):
    """A picture, mask or pointmap that cannot be used."""


class ConfigError(FastSam3dError):
    """A flag, override or configuration value that is unknown or out of range.

    Args:
        key: the configuration key that it is about, so that the command line can name the flag that set it.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class CheckpointError(FastSam3dError):
    """Weights that are missing, incomplete or corrupt, or that need a missing package."""


class OutputError(FastSam3dError):
    """A place where results cannot be written."""


class ExportError(FastSam3dError):
    """A result that cannot be written in the form asked for, or a package for it that is missing."""


_WORDS = re.compile(
    r"out.?of.?(device.?|host.?)?memory|(not enough|insufficient) memory|bad[_ ]alloc|invalid buffer size|"
    r"(can(no|')t|could not|unable to|failed to) (allocate|mmap)|ErrorMemoryAllocation|ALLOC(ATION)?_FAILED|"
    r"memory ?alloc(ation)? ?(error|failed|failure)",
    re.I,
)
"""In messages without a type of their own: of CUDA, HIP, XPU and MPS; of torch's CPU allocator on Linux, macOS and
Windows; of C++, cuBLAS, cuDNN, oneDNN and OpenCV; of Pillow and safetensors."""
_WORDY = ("RuntimeError", "OSError", "SystemError", "SafetensorError", "error")  # the last one of OpenCV
_NO_PAGES = 1455
"""Of Windows: its paging file is too small."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is out-of-memory on the host or a device."""
    torch = sys.modules.get("torch")
    kinds: tuple[type[BaseException], ...] = (MemoryError,)
    if torch is not None:
        kinds = (*kinds, torch.cuda.OutOfMemoryError)
    while error is not None:
        names = [kind.__name__ for kind in type(error).__mro__]
        said = any(name in _WORDY for name in names) and _WORDS.search(str(error))
        number = isinstance(error, OSError) and (
            error.errno == errno.ENOMEM or getattr(error, "winerror", None) == _NO_PAGES
        )
        if isinstance(error, kinds) or said or number:
            return True
        error = error.__cause__
    return False


def one_line(error: BaseException) -> str:
    """The whole message on one line, after the name of the type if the error is not one of the above."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if isinstance(error, FastSam3dError) else f"{type(error).__name__}: {message}"


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of a message, or the name of the type, of at most `limit` characters."""
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:limit]


def suggest(name: str, valid: Iterable[str], count: int = 3) -> str:
    """Names the valid choices nearest to `name`.

    Args:
        name: what was typed.
        valid: the names that exist.
        count: at most this many are named.

    Returns:
        "did you mean 'a' or 'b'?", or "valid are: a, b, c" when nothing is near (all of them up to twelve).
    """
    names = sorted(set(valid))
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.7)
    if not near:
        # A short last part typed without its group (`stride` for `ss.when.stride`) is near by its end, not as a whole.
        last = name.rsplit(".", 1)[-1]
        near = [valid_name for valid_name in names if valid_name.rsplit(".", 1)[-1] == last][:count]
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    if not names:
        return "there is nothing to choose from"
    return "valid are: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
