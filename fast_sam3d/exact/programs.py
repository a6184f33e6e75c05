"""What a module computes: the kinds, settings and weights of its parts, compared by content."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from fast_sam3d.patch import Seam

_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")
_DEEPEST: Final = 6
"""Objects within objects are compared by content to this depth, and by identity below."""
_WRITTEN_IN_PYTHON: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_INTEGERS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Program:
    """A module as it was at one moment: its settings, and a checksum of its weights, whichever way they are changed.

    Args:
        module: in evaluation mode, no part of it with hooks.

    Raises:
        ValueError: it is not; the message says what it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        self.settings = _settings(module)
        tensors = _tensors(module)
        # A storage's address is that of no other as long as this reference lives.
        self._storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors.values()]
        self._marks = [
            (name, storage.cdata, tensor._version, tensor.storage_offset(), tensor.shape, tensor.dtype)
            for (name, tensor), storage in zip(tensors.items(), self._storages, strict=True)
        ]
        self._sum = checksum(tensors.values())

    def is_still(self, now: Program) -> bool:
        """Whether the module has not been touched between this moment and that of `now`."""
        return (
            self.module() is now.module() is not None
            and self._marks == now._marks
            and self._sum == now._sum
            and self.settings == now.settings
        )

    def difference(self, other: Program) -> str | None:
        """Where two modules differ, at this moment, in what they compute; None: equal weights, the same program."""
        mine, others = self.module(), other.module()
        if mine is None or others is None:
            return "one of them is gone"
        if mine is others:
            return None
        for a, b in zip(self.settings, other.settings, strict=False):
            if a != b:
                return f"their parts '{a[0]}' are not set alike"
        a_tensors, b_tensors = _tensors(mine), _tensors(others)
        if len(self.settings) != len(other.settings) or a_tensors.keys() != b_tensors.keys():
            return "they have not the same parts"
        for name, tensor in a_tensors.items():
            if not same_bits(tensor, b_tensors[name]):
                return f"their '{name}' differ"
        return None


def checksum(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Sums of the bits of tensors, taken as whole numbers; one host read per device.

    A change through `.data` or a numpy view leaves no other trace. That it leaves every sum alone would be a
    coincidence; so that it is no exchange of two numbers either, every second and every third counts once more.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_meta or not tensor.numel():
            continue
        bits = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        bits = bits.detach()
        if bits.dtype is not torch.bool:
            bits = bits.view(_INTEGERS[bits.element_size()])
        bits = bits.flatten()
        total = sum((part.sum(dtype=torch.int64) for part in (bits[1::2], bits[2::3])), bits.sum(dtype=torch.int64))
        by_device.setdefault(tensor.device, []).append(total)
    return tuple(int(total) for totals in by_device.values() for total in torch.stack(totals).tolist())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are alike to the bit, NaN and the sign of zero included, and lie in memory alike."""
    if (a.shape, a.dtype, a.device, a.stride()) != (b.shape, b.dtype, b.device, b.stride()):
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if a.is_floating_point():
        integer = _INTEGERS[a.element_size()]
        a, b = a.view(integer), b.view(integer)
    return torch.equal(a, b)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _settings(module: nn.Module) -> list[tuple[str, tuple[type, Any], dict[str, Any]]]:
    """(name, class and its `forward`, attributes) of every part."""
    found = []
    for name, part in module.named_modules():
        if part.training:
            raise ValueError(f"its part '{name}' is in training mode")
        if part is not module and any(getattr(part, hooks) for hooks in _HOOKS):
            raise ValueError(f"its part '{name}' has hooks")
        own = {key: _comparable(value) for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}
        seam = vars(part).get("forward")
        if part is module and isinstance(seam, Seam):  # ours; what was there before it counts
            del own["forward"]
            if seam._shadowed:
                own["forward"] = _Itself(seam._earlier)
        found.append((name, (type(part), type(part).forward), own))
    return found


class _Itself:
    """Something that is equal to nothing but itself."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.thing is other.thing

    __hash__ = None  # type: ignore[assignment]


def _comparable(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """A copy of a setting that `==` compares by content, with its types, where that can be done.

    Args:
        inside: identities of the objects that hold this one.
    """
    if id(value) in inside:  # it holds itself: where, is compared
        return "within", inside.index(id(value))
    held = (*inside, id(value))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), [_comparable(item, held) for item in value]
    if isinstance(value, Mapping):
        return type(value), [(_comparable(key, held), _comparable(item, held)) for key, item in value.items()]
    if isinstance(value, partial):
        return type(value), [_comparable(part, held) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return type(value), value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Tensor):
        return type(value), value.shape, value.dtype, value.device, checksum([value])
    if dataclasses.is_dataclass(value):
        return type(value), [_comparable(getattr(value, field.name), held) for field in dataclasses.fields(value)]
    if len(inside) < _DEEPEST and _is_plain(value):
        return type(value), _comparable(vars(value), held)
    return _Itself(value)


def _is_plain(value: Any) -> bool:
    """Whether all that an object is lies in its attributes: an instance of a class written in Python, and no more."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, logging.Logger)  # it leads to every other one
        and all(base is object or base.__flags__ & _WRITTEN_IN_PYTHON for base in kind.__mro__)
    )
