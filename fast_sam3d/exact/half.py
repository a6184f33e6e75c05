"""Linear layers whose half-precision weights are made once.

Autocast casts the weights of a linear layer at each call; those that take no gradient it does not keep. Here the cast
is kept, and the product is the same one.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.multiprocessing.reductions import StorageWeakRef

from fast_sam3d.exact.programs import checksum
from fast_sam3d.patch import Layer, Seam

CAST: Final = (torch.float32, torch.float16, torch.bfloat16)
"""What autocast casts."""


@dataclass(eq=False)
class Half:
    """A linear layer's parameters in another type.

    Args:
        marks: of the parameters that were cast; other ones give others.
        storages: theirs. As long as these references live, no other storage has the same address.
        weight: [out, in].
        bias: [out], or None.
        sums: checksum of the parameters that were cast.
        solve: that it was last compared in.
    """

    marks: tuple[Any, ...]
    storages: list[StorageWeakRef]
    weight: Tensor
    bias: Tensor | None
    sums: tuple[int, ...]
    solve: weakref.ref[Any] | None


class LinearSeam(Seam):
    """Stands in for the `forward` of an `nn.Linear`: [..., in] -> [..., out]."""

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
        if weight is None or weight.dtype is dtype or any(_left(tensor) for tensor in (x, weight, bias)):
            return call(x)
        half = self._cast(weight, bias, dtype)
        return F.linear(x, half.weight, half.bias)

    def _cast(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Half:
        """The kept ones, made anew where the parameters have changed; through `.data`, where another solve begins."""
        given = [weight] if bias is None else [weight, bias]
        marks = (dtype, *((t.untyped_storage()._cdata, t.storage_offset(), t._version, t.dtype) for t in given))
        solve = next((layer.scene.solve for layer in self.layers if layer.scene is not None), None)
        if self.half is not None and (self.half.solve is None or self.half.solve() is not solve):
            self.half.solve = None if solve is None else weakref.ref(solve)
            if self.half.sums != checksum(given):
                self.half = None
        if self.half is None or self.half.marks != marks:
            storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in given]
            with torch.inference_mode(False), torch.no_grad():
                cast = [tensor.detach().to(dtype) for tensor in given]
            known = None if solve is None else weakref.ref(solve)
            self.half = Half(marks, storages, cast[0], None if bias is None else cast[1], checksum(given), known)
        return self.half

    def discard(self, layer: Layer) -> None:
        """As every seam; what was kept is freed."""
        super().discard(layer)
        self.half = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "half": None}


def _left(tensor: Tensor | None) -> bool:
    """Whether autocast leaves a tensor as it is, or its changes cannot be seen."""
    return tensor is not None and (
        tensor.dtype not in CAST or (isinstance(tensor, nn.Parameter) and tensor.is_inference())
    )
