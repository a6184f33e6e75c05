"""Live bytes of tensors while code runs: with data on a CPU, or on the meta device, where nothing is computed.

    with traced(half=torch.float16, watch=[*network.parameters()]) as found:
        network(tokens, context)
    print(found.peak / 2**30, found.at_peak()[:5])

Counted is every storage from the operation that creates it until its last reference is gone; views cost nothing, and
so do tensors that were there before, unless they are watched. What an allocator of a device adds (rounding,
fragmentation, cached blocks), and memory outside of torch, is not counted.

Inside of an operation torch may hold memory that no tensor shows. Of those the ones that are large are added for the
length of the operation: `INSIDE`. Attention on the meta device is counted as fused, as on every device that has a fused
kernel: the result, and one float32 per query and head. Autocast does not exist on the meta device, so `half` stands for
it: the casts that autocast would do are done, and counted.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["INSIDE", "Allocations", "Block", "tensor_bytes", "traced"]

INSIDE: Final[Mapping[str, Callable[[int, int], int]]] = {
    "sort": lambda given, made: given,  # the second buffer of a radix sort
    "argsort": lambda given, made: 2 * given,
    "_unique2": lambda given, made: 2 * given,  # the sorted values and the order
    "unique_dim": lambda given, made: 2 * given,
    "nonzero": lambda given, made: made,
    "convolution": lambda given, made: made,  # workspace of cuDNN; it may take more where it may choose
}
"""Bytes that an operation holds inside, by name, from those of its arguments and of its results."""

WATCHED: Final = "watched"
"""Name of what was there before."""

_HALF: Final = {
    F.linear, F.conv2d, F.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm, Tensor.matmul, Tensor.__matmul__,
    F.scaled_dot_product_attention, F.conv_transpose2d,
}  # fmt: skip
_FLOAT: Final = {F.layer_norm, F.group_norm, F.softplus, F.softmax, torch.exp, torch.pow, Tensor.exp, Tensor.pow}


@dataclass(eq=False, slots=True)
class Block:
    """One storage.

    Args:
        bytes: its size.
        name: of the operation that created it, or "watched".
        shape, dtype: of the first tensor on it.
        born, died: at which operation; None: still alive.
    """

    bytes: int
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    born: int
    died: int | None = None


@dataclass(eq=False)
class Allocations:
    """What a trace has counted.

    Args:
        live: bytes that are alive now.
        peak: the largest value of it.
        peak_name: the operation at which that was.
        meta: whether tensors on the meta device count.
    """

    meta: bool = True
    live: int = 0
    peak: int = 0
    peak_name: str = ""
    _now: int = 0
    _peak_at: int = 0
    _blocks: list[Block] = field(default_factory=list)
    _known: dict[int, tuple[weakref.ref[Any], Block]] = field(default_factory=dict)

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors that are there already, such as weights; those known already only once."""
        for tensor in tensors:
            self._add(tensor, WATCHED)
        self._measure(WATCHED)

    def restart(self) -> None:
        """Measure the peak from now on."""
        self.peak, self.peak_name, self._peak_at = self.live, "", self._now

    def at_peak(self) -> list[tuple[int, str]]:
        """What was alive at the peak: (bytes, operation, type and shape), equal ones together, the largest first."""
        found: dict[str, int] = defaultdict(int)
        for block in self._blocks:
            if block.born <= self._peak_at and (block.died is None or block.died >= self._peak_at):
                kind = str(block.dtype).removeprefix("torch.")
                found[f"{block.name} {kind} {list(block.shape)}"] += block.bytes
        return sorted(((size, label) for label, size in found.items()), reverse=True)

    def _add(self, tensor: Tensor, name: str, there: bool = False) -> int:
        """Count a tensor's storage unless it is known, or was there before. Returns the bytes that are new."""
        if tensor.is_meta and not self.meta:
            return 0
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is not None and known[0]() is not None:
            if name == WATCHED and not known[1].bytes:  # seen before it was watched
                known[1].bytes, known[1].name = storage.nbytes(), name
                self.live += storage.nbytes()
            return 0
        block = Block(0 if there else storage.nbytes(), name, tuple(tensor.shape), tensor.dtype, self._now)
        self._blocks.append(block)
        key = storage._cdata
        self._known[key] = (weakref.ref(storage, lambda _: self._drop(key, block)), block)
        self.live += block.bytes
        return block.bytes

    def _drop(self, key: int, block: Block) -> None:
        block.died = self._now
        self.live -= block.bytes
        if (known := self._known.get(key)) is not None and known[1] is block:
            del self._known[key]

    def _measure(self, name: str, inside: int = 0) -> None:
        if self.live + inside > self.peak:
            self.peak, self.peak_name, self._peak_at = self.live + inside, name, self._now

    def _called(self, name: str, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        self._now += 1
        for tensor in given:  # results may be views of them
            self._add(tensor, name, there=True)
        new = sum(self._add(tensor, name) for tensor in made)
        inside = INSIDE.get(name)
        self._measure(name, 0 if inside is None else inside(max(map(tensor_bytes, given), default=0), new))


class _Operations(TorchDispatchMode):
    """Reports every operation and its new storages."""

    def __init__(self, found: Allocations) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.found._called(func.__name__.split(".")[0], given, made)
        return result


class _Meta(TorchFunctionMode):
    """Fused attention and autocast for tensors on the meta device."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self.half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.half is not None and func in _HALF | _FLOAT and any(_is_meta(value) for value in args):
            wanted = self.half if func in _HALF else torch.float32
            args = [_cast(value, wanted) for value in args]
            kwargs = {name: _cast(value, wanted) for name, value in kwargs.items()}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            query, value = args[0], args[2]
            scales = query.new_empty(query.shape[:-1], dtype=torch.float32)
            result = query.new_empty(*query.shape[:-1], value.shape[-1])
            del scales
            return result
        return func(*args, **kwargs)


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _cast(value: Any, wanted: torch.dtype) -> Any:
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    return value.to(wanted) if isinstance(value, Tensor) and value.dtype in kinds else value


@contextmanager
def traced(half: torch.dtype | None = None, watch: Iterable[Tensor] = (), meta: bool = True) -> Iterator[Allocations]:
    """Count the memory of tensors in a block.

    Args:
        half: type in which autocast would run the block on the meta device; None: no autocast.
        watch: tensors that are there already, such as weights and inputs.
        meta: whether tensors on the meta device count; not where they stand for weights that are elsewhere.
    """
    found = Allocations(meta)
    found.watch(watch)
    with _Meta(half), _Operations(found):
        yield found


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()
