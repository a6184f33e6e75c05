"""What a sampling network keeps during one solve: keys and values of its context, and the geometry of its voxels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.layers import ContextProjections

__all__ = ["ConditionedNetwork", "voxel_grid"]


class ConditionedNetwork(nn.Module):
    """A network with cross-attention to a context, called many times with the same one."""

    force_zeros_cond = True
    keep_context: bool | Collection[str] | None = None
    """Whether `keeping` computes keys and values once; or the streams of which it does. None: left to
    `exact.context`, which otherwise adds nothing."""
    constant_unconditional = False
    """The unconditional call has one zero token in place of a context of zeros, so that cross-attention is one vector
    for all queries, exactly what equal keys and values give. Off: left to `exact.unconditional`."""

    def __init__(self) -> None:
        super().__init__()
        self._contexts: dict[int, Tensor] = {}
        self._grids: dict[int, SparseGrid] = {}

    @property
    def built_in_savings(self) -> tuple[str, ...]:
        """The exact savings that these settings leave nothing to."""
        own = {"context": self.keep_context is not None, "unconditional": self.constant_unconditional}
        return tuple(name for name, built_in in own.items() if built_in)

    def cross_attentions(self) -> Iterator[tuple[str, ContextProjections]]:
        """(stream, module) of every cross-attention; the stream of a network with only one is empty."""
        for module in self.modules():
            if isinstance(module, ContextProjections):
                yield "", module

    @property
    def context_bytes(self) -> int:
        """Memory of the keys and values that are kept now."""
        kept = [t for _, attention in self.cross_attentions() for t in attention.kept.values() if t is not None]
        return sum(t.numel() * t.element_size() for t in kept)

    @contextmanager
    def keeping(self, cond: Any = None, coords: Any = None) -> Iterator[None]:
        """Within this block, calls with these very objects reuse what depends on nothing else. Bit for bit equal.

        Args:
            cond: context tokens as the network takes them, not modified in this block; anything else is ignored.
            coords: voxels [N, 4] as the network takes them.
        """
        if not isinstance(cond, Tensor):
            yield
            return
        wanted = self.keep_context
        users = [
            attention
            for stream, attention in self.cross_attentions()
            if wanted is True or (isinstance(wanted, Collection) and stream in wanted)
        ]
        with ExitStack() as stack:
            # Referenced until the end of the block, so that no other object has its identity.
            context = self._cast(cond)
            stack.enter_context(_held(self._contexts, cond, context))
            for attention in users:
                stack.enter_context(_held(attention.kept, context, None))
            if isinstance(coords, Tensor | np.ndarray):
                grid = stack.enter_context(voxel_grid(coords, cond.device).reused())
                stack.enter_context(_held(self._grids, coords, grid))
            yield

    def _cast(self, cond: Tensor) -> Tensor:
        """The context in the type that the blocks take."""
        return cond

    def context(self, cond: Tensor, cfg: bool) -> Tensor:
        """The context of a call [B, L, C]; cfg: of the unconditional call of guidance, which is all zeros."""
        if cfg and self.force_zeros_cond:
            cond = cond.new_zeros(cond.shape[0], 1, cond.shape[2]) if self.constant_unconditional else cond * 0
        kept = None if torch.compiler.is_compiling() else self._contexts.get(id(cond))
        return self._cast(cond) if kept is None else kept

    def grid(self, coords: Tensor | np.ndarray | SparseGrid, device: torch.device) -> SparseGrid:
        """The grid of some voxels, on `device` unless that is meta."""
        kept = self._grids.get(id(coords)) if self._grids else None
        return voxel_grid(coords, device) if kept is None else kept


@contextmanager
def _held(table: dict[int, Any], key: object, value: Any) -> Iterator[None]:
    """An entry of a table by the identity of an object, until the end of the block."""
    table[id(key)] = value
    try:
        yield
    finally:
        table.pop(id(key), None)


def voxel_grid(coords: Tensor | np.ndarray | SparseGrid, device: torch.device) -> SparseGrid:
    """The grid of voxels [N, 4] (batch, x, y, z), on `device` unless that is meta; a grid is returned unchanged."""
    if isinstance(coords, SparseGrid):
        return coords
    if not isinstance(coords, Tensor):
        coords = torch.as_tensor(coords, device="cpu")
    return SparseGrid(coords if device.type == "meta" else coords.to(device))
