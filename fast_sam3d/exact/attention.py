"""Sparse attention without its [N, N] mask.

Where the stock code has no kernel for sequences of different length, it lays them end to end and masks what lies
outside of each one's block, in one attention of everything to everything
(sam3d_objects/model/backbone/tdfy_dit/modules/sparse/attention/masked_sdpa.py): for a single sequence a mask of N x N
zeros, for the windows of a decoder almost all of it is minus infinity.

- A single sequence gets one row of zeros, which the same kernel reads for every query.
- Of windows, `ROWS` queries at a time see the keys of their own windows, widened to whole blocks of `KEYS`. The kernels
  go through blocks of queries and keys, and a block that is masked whole adds exact zeros; so what is left are the same
  blocks, the same operations, the same bits. Attention window by window would be faster still, and differ in rounding.

The forward of the attention is the stock one, of which only the name `masked_sdpa` is bound anew, in a copy that lasts
for a call: no module and no class is changed. Both ways are tried on a small problem first, once per kind of numbers;
where the bits differ, everything stays as it was.
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

from fast_sam3d.exact.saving import SavingSeam

logger = logging.getLogger(__name__)

ROWS = 768
"""Queries at a time: whole blocks of queries, which are 256 on a CPU (from 768 queries on) and up to 128 on a GPU."""

KEYS = 512
"""Keys come in multiples of this: whole blocks, which are 512 on a CPU and up to 128 on a GPU."""

MASKED = "masked_sdpa"

Attend = Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]
"""(q [1, N, H, C], k [1, M, H, C], v [1, M, H, C'], lengths in q, lengths in k and v) -> [N, H, C']."""


class AttentionSeam(SavingSeam):
    """Stands in for the `forward` of a sparse attention."""

    def __init__(self, attention: Any) -> None:
        super().__init__(attention, "forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.attend()(*args, **kwargs)

    def attend(self) -> Callable[..., Any]:
        """The original forward, without masks where a layer wants that."""
        return without_masks(self.original()) if self.wanted("attention") else self.original()


def fits(attention: Any) -> bool:
    """Whether a module's forward masks its attention in the known way."""
    return bool(_masking(getattr(type(attention), "forward", None)))


def without_masks(call: Callable[..., Any]) -> Callable[..., Any]:
    """A bound forward with another `masked_sdpa`; the same one where it has none."""
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
    """What `masked` gives, bit for bit. Shapes as in `Attend`."""
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
    """The functions by which a forward attends and that mask, by the names it calls them."""
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
    """The function with other globals under these names."""
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
    # Not None: without a mask a GPU would take another kernel, with other last bits.
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
    """Runs of queries, and the keys that each has to see.

    A run has `ROWS` queries, the last one up to twice as many: a CPU takes smaller blocks for fewer.
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
    """Try a small problem both ways, with these numbers and in the present autocast."""
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
