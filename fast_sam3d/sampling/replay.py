"""A series of small kernels that a GPU repeats without the host, as a CUDA graph."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from fast_sam3d.sampling.syncs import Syncs

logger = logging.getLogger(__name__)

CLOSE: Final = 1e-2
"""Allowed difference of a replayed result from a plain one, of the same kernels, relative to the largest value."""

Function = Callable[..., list[Tensor]]


class Replay:
    """Calls a function of tensors: plainly at first, then recorded, then only replayed.

    Between calls only the values of tensors may change that the function uses, not where they are; its arguments may
    be anywhere. Where recording fails, which is logged, calls stay plain.

    Args:
        record: (function without arguments) -> (its results, a function that computes them again in place).
    """

    def __init__(self, record: Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]) -> None:
        self._record = record
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._results: list[Tensor] = []
        self._again: Callable[[], None] | None = None

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The function's results for these inputs, which have the same shapes and types at every call."""
        self._calls += 1
        if self._calls == 2:
            self._inputs = [x.clone() for x in inputs]
            try:
                self._results, self._again = self._record(functools.partial(function, *self._inputs))
            except RuntimeError as error:
                logger.info("a series of kernels is not recorded, because %s", str(error).splitlines()[0])
        if self._again is None:
            return function(*inputs)
        for kept, x in zip(self._inputs, inputs, strict=True):
            kept.copy_(x)
        self._again()
        return [x.clone() for x in self._results]


def recorded(syncs: Syncs, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """See `Replay`: by a CUDA graph, whose memory lives as long as the second result. It is compared with a plain call.

    Raises:
        RuntimeError: something in the function cannot be recorded, or gives other values then.
    """
    graph, stream, here = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device()), torch.cuda.current_stream()
    stream.wait_stream(here)
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # it would keep casts that are made in the graph
    try:
        with torch.cuda.stream(stream):
            plain = function()  # libraries allocate for a stream at its first use
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                results = function()
            finally:
                graph.capture_end()
    finally:
        torch.set_autocast_cache_enabled(cached)
        here.wait_stream(stream)
    graph.replay()
    alike = [(a - b).abs().max() <= CLOSE * b.abs().max() for a, b in zip(results, plain, strict=True)]
    if not bool(syncs.read(torch.stack(alike).all())):
        raise RuntimeError("what it gives then differs from a plain call")
    return results, graph.replay


@functools.cache
def _stream(device: int) -> Any:
    return torch.cuda.Stream(device)
