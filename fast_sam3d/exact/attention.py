"""Sparse attention without its [N, N] mask.

Without a kernel for sequences of different length, the stock code concatenates the sequences and masks everything
outside of their blocks in one full attention
(modules/sparse/attention/masked_sdpa.py). For a single sequence the mask is
N x N zeros; for the windows of a decoder almost all of it is minus infinity.

- A single sequence gets one row of zeros, broadcast over all queries by the same kernel.
- For windows, `ROWS` queries at a time attend to the keys of their own windows, widened to whole blocks of `KEYS`. The
  kernels iterate over blocks of queries and keys, and a fully masked block adds exact zeros; so the remaining blocks
  give the same operations and the same bits. Attention per window would be faster, but differs in rounding.

The attention's own forward runs with the name `masked_sdpa` rebound in a temporary copy of the function: no module and
no class is changed. Both ways are first compared on a small problem, once per dtype and device; where the bits differ,
the saving stays off.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.patch import Seam

logger = logging.getLogger(__name__)

ROWS = 768
"""Queries at a time, a multiple of the kernels' blocks: 256 on a CPU (from 768 queries on), up to 128 on a GPU."""

KEYS = 512
"""Keys come in multiples of this, the kernels' blocks: 512 on a CPU, up to 128 on a GPU."""

MASKED = "masked_sdpa"

Attend = Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]
"""(q [1, N, H, C], k [1, M, H, C], v [1, M, H, C'], lengths in q, lengths in k and v) -> [N, H, C']."""


class AttentionSeam(Seam):
    """Replaces the `forward` of a sparse attention."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention, "forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.attend()(*args, **kwargs)

    def wanted(self, saving: str) -> bool:
        """Whether an installation asks for a saving here."""
        return any(getattr(layer.method, saving, False) for layer in self.layers)

    def attend(self) -> Callable[..., Any]:
        """The original forward, without masks where an installation asks for that."""
        return without_masks(self.original()) if self.wanted("attention") else self.original()


def fits(attention: Any) -> bool:
    """Whether a module's forward masks its attention in the known way."""
    return bool(_masking(getattr(type(attention), "forward", None)))


def without_masks(call: Callable[..., Any]) -> Callable[..., Any]:
    """A bound forward with `masked_sdpa` replaced; unchanged if it calls none."""
    function = getattr(call, "__func__", None)
    names = _masking(function)
    if not names or not isinstance(function, FunctionType):
        return call
    rebound = {
        name: _rebound(attention, {MASKED: partial(attend, attention.__globals__[MASKED])})
        for name, attention in names.items()
    }
    return MethodType(_rebound(function, rebound), getattr(call, "__self__", None))


def attend(masked: Attend, q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """The result of `masked`, bit for bit. Shapes as in `Attend`."""
    alone = len(q_lengths) == len(lengths) == 1
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if differentiates or not (alone or (list(q_lengths) == list(lengths) and len(list(_runs(lengths))) > 1)):
        return masked(q, k, v, q_lengths, lengths)
    kind = q.device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if not _same_bits(masked, alone, q.device, q.dtype, cast, q.shape[-1], v.shape[-1]):
        return masked(q, k, v, q_lengths, lengths)
    return _single(q, k, v) if alone else _windows(q, k, v, lengths)


def _masking(forward: Any) -> dict[str, FunctionType]:
    """The functions that a forward calls and that mask, by name."""
    if not isinstance(forward, FunctionType):
        return {}
    called = {name: forward.__globals__.get(name) for name in forward.__code__.co_names}
    return {
        name: function
        for name, function in called.items()
        if isinstance(function, FunctionType)
        and MASKED in function.__code__.co_names
        and callable(function.__globals__.get(MASKED))
    }


def _rebound(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """A copy of the function with these globals replaced."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _single(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Not None: without a mask a GPU would use another kernel, which rounds differently.
    return _sdpa(q, k, v, q.new_zeros(1, 1, 1, k.shape[1]))


def _windows(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    windows = torch.arange(len(lengths), device=q.device)
    windows = windows.repeat_interleave(torch.tensor(lengths, device=q.device), output_size=sum(lengths))
    out = q.new_empty(0)
    for rows, keys in _runs(lengths):
        other = windows[rows, None] != windows[keys]
        mask = torch.zeros(other.shape, device=q.device, dtype=q.dtype).masked_fill_(other, float("-inf"))
        part = _sdpa(q[:, rows], k[:, keys], v[:, keys], mask[None, None])
        if not len(out):
            out = part.new_empty(q.shape[1], *part.shape[1:])
        out[rows] = part
    return out


def _runs(lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Runs of queries, each with the keys that it attends to.

    A run has `ROWS` queries, the last one up to twice as many, because a CPU uses smaller blocks for fewer.
    """
    total, starts = sum(lengths), [0, *accumulate(lengths)]
    cuts = [*range(0, max(total - ROWS + 1, 1), ROWS), total]
    first = last = 0
    for low, high in pairwise(cuts):
        while starts[first + 1] <= low:
            first += 1
        while starts[last] < high:
            last += 1
        yield slice(low, high), slice(starts[first] // KEYS * KEYS, min(total, -(-starts[last] // KEYS) * KEYS))


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[1, N, H, C] -> [N, H, C]."""
    q, k, v = (x.permute(0, 2, 1, 3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(0, 2, 1, 3)[0]


@functools.cache
def _same_bits(
    masked: Attend,
    alone: bool,
    device: torch.device,
    dtype: torch.dtype,
    cast: torch.dtype | None,
    width: int,
    value_width: int,
) -> bool:
    """Compare both ways on a small problem of this dtype, in the current autocast."""
    generator = torch.Generator("cpu").manual_seed(0)  # the stock pipeline runs inside another default device
    lengths = [ROWS + 99] if alone else torch.randint(1, 500, (16,), generator=generator, device="cpu").tolist()
    q, k, v = (
        torch.randn(1, sum(lengths), 2, channels, generator=generator, device="cpu").to(device, dtype)
        for channels in (width, width, value_width)
    )
    with torch.no_grad():
        want = masked(q, k, v, lengths, lengths)
        got = _single(q, k, v) if alone else _windows(q, k, v, lengths)
    if want.dtype == got.dtype and torch.equal(want, got):
        return True
    off = float((want.float() - got.float()).abs().max())
    what = "a single sequence" if alone else "windows"
    logger.warning("exact.attention stays off for %s, because %s on %s differ by %.1e", what, dtype, device.type, off)
    return False
