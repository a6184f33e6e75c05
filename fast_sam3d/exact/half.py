"""Linear layers whose weights are cast to half precision once.

Autocast casts the weights of a linear layer at each call, and caches only those that require gradients. Here the cast
is stored with the storage and version of the weights, repeated when those change, and freed with them, so that weights
which leave the device leave nothing behind. Torch counts the version up with every in-place operation. Only writes
through `.data`, or through a numpy view, leave no trace: call `accelerate` again after those.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.multiprocessing.reductions import StorageWeakRef

from fast_sam3d.patch import Layer, Seam

CAST: Final = (torch.float32, torch.float16, torch.bfloat16)
"""Types that autocast casts."""


@dataclass(eq=False)
class Half:
    """A linear layer's parameters in another type.

    Args:
        marks: storage, version and type of the parameters that were cast.
        storages: theirs. While these references live, no other storage has the same identity.
        weight: [out, in].
        bias: [out], or None.
        source: the weights that were cast; calls back when they are gone.
    """

    marks: tuple[Any, ...]
    storages: list[StorageWeakRef]
    weight: Tensor
    bias: Tensor | None
    source: weakref.ref[Tensor]


class LinearSeam(Seam):
    """Replaces the `forward` of an `nn.Linear`: [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear, "forward")
        self.half: Half | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original()
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not self.layers:
            return call(*args, **kwargs)
        (x,) = args
        kind = x.device.type
        if x.is_meta or torch.is_grad_enabled() or is_compiling() or not torch.is_autocast_enabled(kind):
            return call(x)
        dtype, own = torch.get_autocast_dtype(kind), self.owner()._parameters
        weight, bias = own.get("weight"), own.get("bias")
        if weight is None or weight.dtype is dtype or any(_uncast(tensor) for tensor in (x, weight, bias)):
            return call(x)
        half = self._cast(weight, bias, dtype)
        return F.linear(x, half.weight, half.bias)

    def _cast(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Half:
        """The stored parameters, cast again where those of the layer have changed."""
        given = [weight] if bias is None else [weight, bias]
        marks = (dtype, *((t.untyped_storage()._cdata, t.storage_offset(), t._version, t.dtype) for t in given))
        if self.half is None or self.half.marks != marks:
            with torch.inference_mode(False), torch.no_grad():
                cast = [tensor.detach().to(dtype) for tensor in given]
            storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in given]
            source = weakref.ref(weight, partial(_forget, weakref.ref(self)))
            self.half = Half(marks, storages, cast[0], None if bias is None else cast[1], source)
        return self.half

    def discard(self, layer: Layer) -> None:
        """As every seam; the stored parameters are freed."""
        super().discard(layer)
        self.half = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "half": None}


def _forget(seam: weakref.ref[LinearSeam], source: weakref.ref[Tensor]) -> None:
    """Free what was cast from weights that are gone."""
    owner = seam()
    if owner is not None and owner.half is not None and owner.half.source is source:
        owner.half = None


def _uncast(tensor: Tensor | None) -> bool:
    """Whether autocast does not cast a tensor, or its changes cannot be seen."""
    return tensor is not None and (
        tensor.dtype not in CAST or (isinstance(tensor, nn.Parameter) and tensor.is_inference())
    )
