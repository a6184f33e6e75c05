"""Networks without values: their parameters are on the meta device, where only shapes exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Outlines"]

_CREATED: Final = (torch.empty, torch.ones, torch.randn, torch.zeros)
_FILLED: Final = (Tensor.fill_, Tensor.normal_, Tensor.uniform_, Tensor.zero_)


class Outlines(TorchFunctionMode):
    """Networks that are built in this context have shapes and no values.

    Not `torch.device("meta")`: for initial values and position codes there, torch imports its compiler, which takes
    seconds. Here values are left out, and what is computed from a range, such as a position code, is on the CPU.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLED or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in _CREATED:
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        return func(*args, **kwargs)
