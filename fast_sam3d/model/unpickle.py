"""Unpickler for torch files that builds tensors, mappings and numbers, and calls nothing else a file names.

Passed to `torch.load` as its `pickle_module`. The one of `weights_only=True` refuses Lightning checkpoints, which also
hold hyperparameters and the state of callbacks; takes minutes or all memory for some small files (nested keys,
`bytearray(n)`); and lets a file set attributes. In Python, as that one is, so that each opcode can be replaced.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar, Final

import torch
from torch import Tensor

__all__ = ["LONGEST", "Inert", "RefusedError", "TooLongError", "Unpickler", "load"]

LONGEST: Final = 2 << 20
"""Bytes of the longest pickle. One of 1,500 tensors and an optimizer's state has 1 MB; this unpickler reads about a
million small objects a second, and some opcodes turn a byte into a hundred."""

# No checkpoint needs these: a file that names one is not just weights.
_MODULES: Final = frozenset({
    "_pickle", "code", "commands", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty", "runpy",
    "shutil", "socket", "subprocess", "sys", "webbrowser",
})  # fmt: skip
_FUNCTIONS: Final = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"})


class RefusedError(pickle.UnpicklingError):
    """A file names a function that runs programs. The message is its name."""


class TooLongError(pickle.UnpicklingError):
    """A pickle of more than `LONGEST` bytes."""

    def __init__(self) -> None:
        super().__init__(f"have more than {LONGEST >> 20} MiB beside their tensors")


class _Counted:
    """A file of which at most `LONGEST` bytes are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, LONGEST

    def read(self, size: int = -1) -> bytes:
        self._left -= max(size, 0)
        if self._left < 0:
            raise TooLongError
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise TooLongError
        return line


class Inert:
    """Takes the place of every other class or function: keeps nothing, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass


def _mapping(pairs: Iterable[Any] = ()) -> OrderedDict[str, Any]:
    return OrderedDict((key, value) for key, value in pairs if type(key) is str)


def _bounded(rebuild: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's function, refusing a tensor larger than its storage: torch would enlarge a storage that is not mapped."""

    def call(storage: Any, *args: Any) -> Tensor:
        memory = getattr(storage, "_untyped_storage", storage)
        size = memory.nbytes()
        tensor = rebuild(storage, *args)
        if memory.nbytes() != size:
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        return tensor

    return call


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


_ALLOWED: Final[dict[str, Any]] = {
    "collections.OrderedDict": _mapping,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _bounded(torch._utils._rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _bounded(torch._utils._rebuild_tensor_v2),
    "torch._utils._rebuild_tensor_v3": _bounded(torch._utils._rebuild_tensor_v3),
    "torch.storage.UntypedStorage": torch.UntypedStorage,
    **{f"torch.{name}": kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
}

_InPython: Any = vars(pickle)["_Unpickler"]


class Unpickler(_InPython):  # type: ignore[misc]
    """As `pickle.Unpickler`, but imports nothing, sets no attributes, and keeps no entries but those named by text."""

    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        super().__init__(_Counted(file), **options)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        builtin = module in ("builtins", "__builtin__") and name in _FUNCTIONS
        if builtin or module.split(".", 1)[0] in _MODULES:
            raise RefusedError(full)
        return _ALLOWED.get(full, Inert)

    def _build(self) -> None:
        self.stack.pop()

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._keep(zip(items[::2], items[1::2], strict=True))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._keep([(key, value)])

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._keep(zip(items[::2], items[1::2], strict=True))

    def _keep(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        # Hashing a tuple of tuples of the same tuple takes for ever, so other keys are not looked at.
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_mapping(pairs))

    def _empty_set(self) -> None:
        self.append(Inert())

    def _add_items(self) -> None:
        self.pop_mark()

    def _frozen_set(self) -> None:
        self.pop_mark()
        self.append(Inert())

    def _byte_array(self) -> None:
        self.read(int.from_bytes(self.read(8), "little"))
        self.append(Inert())

    def _persistent(self) -> None:
        kind, *values = self.stack.pop()
        if kind == "module":  # with its source code, in files of the time before 1.6
            self.append(Inert)
        elif type(values[1]) is str and values[4:] in ([], [None]):
            self.append(self.persistent_load((kind, *values)))
        else:
            raise pickle.UnpicklingError("a storage without a name")

    for _code, _method in (
        (pickle.BUILD, _build), (pickle.SETITEMS, _set_items), (pickle.SETITEM, _set_item), (pickle.DICT, _dict),
        (pickle.EMPTY_SET, _empty_set), (pickle.ADDITEMS, _add_items), (pickle.FROZENSET, _frozen_set),
        (pickle.BYTEARRAY8, _byte_array), (pickle.BINPERSID, _persistent),
    ):  # fmt: skip
        dispatch[_code[0]] = _method


def load(file: BinaryIO, **options: Any) -> Any:
    """As `pickle.load`; `torch.load` calls it for what is around the content of files of the time before 1.6."""
    value = Unpickler(file, **options).load()
    names = isinstance(value, list) and all(type(name) is str for name in value)
    if not (names or isinstance(value, (int, dict))):
        raise pickle.UnpicklingError("neither a number, nor settings, nor a list of names")
    return value
