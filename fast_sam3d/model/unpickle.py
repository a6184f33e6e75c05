"""Unpickler for torch files that builds tensors, containers and numbers, and calls nothing else a file names.

Passed to `torch.load` as its `pickle_module`, for files that `weights_only=True` refuses: a Lightning checkpoint also
holds hyperparameters and the state of callbacks, whose classes are not needed to read the weights.
"""

from __future__ import annotations

import collections
import pickle
from typing import Any, BinaryIO, Final

import torch

__all__ = ["Inert", "RefusedError", "Unpickler", "load"]

_ALLOWED: Final[dict[str, Any]] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.device": torch.device,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    **{f"{home}.{kind.__name__}": kind for home in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{f"torch.{name}": kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
}
# No checkpoint needs these: a file that names one is not just weights.
_MODULES: Final = frozenset({
    "_pickle", "code", "commands", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "webbrowser",
})  # fmt: skip
_FUNCTIONS: Final = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"})


class RefusedError(pickle.UnpicklingError):
    """A file names a function that runs programs. The message is its name."""


class Inert:
    """Takes the place of every other class or function: keeps nothing, does nothing."""

    dump_patches = False  # torch.load looks at it for modules in files of the time before 1.6

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """As the class it derives from, but `find_class` imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        builtin = module in ("builtins", "__builtin__") and name in _FUNCTIONS
        if builtin or module.split(".", 1)[0] in _MODULES:
            raise RefusedError(full)
        return _ALLOWED.get(full, Inert)


def load(file: BinaryIO, **options: Any) -> Any:
    """As `pickle.load`; `torch.load` calls it for files of the time before 1.6."""
    return Unpickler(file, **options).load()
