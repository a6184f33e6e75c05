"""Cross-attention to a context that is constant over a solve, or all zeros.

At the network's seam `watch_context` determines for each call which of the two the context is; the seams on its
cross-attentions and on their `to_kv` act on that. Their cache (`Contexts`) is part of the `SolveState` of one solve.
Outside a solve calls are unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.exact.attention import AttentionSeam
from fast_sam3d.patch import Seam
from fast_sam3d.sampling.guide import SolveState, running_solve
from fast_sam3d.sampling.syncs import Syncs

logger = logging.getLogger(__name__)

PROBES = 4
"""Tokens on which a cross-attention is checked before its unconditional result is treated as constant."""

MOST = 4
"""Contexts whose keys and values are kept in a solve; those of further ones are computed at each call."""

TOLERANCE: Mapping[torch.dtype, float] = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Allowed difference of the probes, relative to the largest value; 1e-5 for other dtypes."""


@dataclass(eq=False)
class Contexts:
    """Cached results of one solve's cross-attentions.

    Args:
        syncs: of the solve.
        known: conditions of calls so far.
        kind: of the running call: "unconditional", the number of its conditions in `known`, or None for any other.
        kept: keys and values by the identity of their projection's seam and the number of the conditions.
        constants: results of unconditional cross-attentions, by the identity of their seam.
    """

    syncs: Syncs
    known: list[tuple[Any, ...]] = field(default_factory=list)
    kind: str | int | None = None
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(kept.numel() * kept.element_size() for kept in self.kept.values())


def watch_context(network: Any, state: SolveState, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The method at a sampler network's `NetworkSeam`: determines the kind of context of each call."""
    contexts = contexts_of(state)
    if contexts.kind is not None:
        return call(*args, **kwargs)
    if not network.training:
        branch = state.branch(network, args, kwargs)
        if branch == "zeros":
            contexts.kind = "unconditional"
        elif branch is not None:
            contexts.kind = _number(contexts, _conditions(args[2:], kwargs))
    try:
        return call(*args, **kwargs)
    finally:
        contexts.kind = None


class CrossAttentionSeam(AttentionSeam):
    """Replaces the `forward` of a cross-attention: (tokens, context)."""

    def __init__(self, attention: Any, name: str) -> None:
        super().__init__(attention)
        self.place = name
        self.constant: bool | None = None
        """Whether the unconditional result is constant; None before it was checked."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.attend()
        contexts = active(self) if self.wanted("unconditional") else None
        if contexts is None or contexts.kind != "unconditional" or kwargs or len(args) != 2 or self.constant is False:
            return call(*args, **kwargs)
        x, context = args
        if not isinstance(context, Tensor) or context.dim() != 3 or not _rows(x):
            return call(x, context)
        row = contexts.constants.get(id(self))
        if row is None:
            row = _values(call(_some(x, 1), context[:1, :1])).reshape(-1)
            if self.constant is None:
                self.constant = self._is_constant(call, x, context, row, contexts.syncs)
                if not self.constant:
                    return call(x, context)
            contexts.constants[id(self)] = row
        return row.expand(*x.shape[:-1], -1) if isinstance(x, Tensor) else x.replace(row.expand(_rows(x), -1))

    def _is_constant(self, call: Any, x: Any, context: Tensor, row: Tensor, syncs: Syncs) -> bool:
        """Check that the context is zero, and that neither its length nor the query changes the result."""
        if context.is_meta:
            return True  # no values: operations are counted
        tried = _values(call(_some(x, PROBES), context[:1])).reshape(-1, row.shape[0]).float()
        off, largest = (tried - row.float()).abs().max(), row.float().abs().max()
        nonzero, off, largest = syncs.read(torch.stack([context.any().float(), off, largest])).tolist()
        if nonzero:
            reason = "its context is not zero"
        elif off <= TOLERANCE.get(row.dtype, 1e-5) * max(largest, 1e-6):
            return True
        else:
            reason = f"its result depends on the query (by {off:.1e})"
        logger.warning("%s: the unconditional shortcut stays off here, because %s", self.place, reason)
        return False


class KeysSeam(Seam):
    """Replaces the `forward` of a cross-attention's `to_kv`: context -> keys and values."""

    def __init__(self, projection: Any) -> None:
        super().__init__(projection, "forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original()
        contexts = active(self)
        number = None if contexts is None else contexts.kind
        if contexts is None or not isinstance(number, int):
            return call(*args, **kwargs)
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return call(*args, **kwargs)
        kept = contexts.kept.get((id(self), number))
        if kept is None:
            kept = contexts.kept[id(self), number] = call(args[0])
        return kept


def active(seam: Seam) -> Contexts | None:
    """The contexts of the solve in which this seam is called, None outside one."""
    state = running_solve(seam)
    return None if state is None else contexts_of(state)


def contexts_of(state: SolveState) -> Contexts:
    """The cache of a solve, created at the first call."""
    if not isinstance(state.kept, Contexts):
        state.kept = Contexts(state.syncs)
    return state.kept


def _conditions(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The conditions of a network: its arguments without the step size and the voxels of a structured latent."""
    named = [kwargs[key] for key in sorted(kwargs) if key not in ("d", "cfg", "coords")]
    return tuple(value for value in (*args, *named) if not _voxels(value))


def _voxels(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 2 and value.shape[1] == 4


def _number(contexts: Contexts, conditions: tuple[Any, ...]) -> int | None:
    """The number of conditions among the known, which they join if they are new; None: there are too many."""
    for same in (_is, partial(_equal, syncs=contexts.syncs)):  # comparing values makes the host wait
        for number, known in enumerate(contexts.known):
            if len(known) == len(conditions) and all(map(same, known, conditions)):
                return number
    if len(contexts.known) == MOST:
        return None
    contexts.known.append(conditions)
    return len(contexts.known) - 1


def _is(a: Any, b: Any) -> bool:
    """Whether both are one object, or views of the same values."""
    if a is b or not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.is_meta:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _equal(a: Any, b: Any, syncs: Syncs) -> bool:
    if _is(a, b):
        return True
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and bool(syncs.read((a == b).all()))


def _rows(x: Any) -> int:
    """Number of tokens of a sequence [B, N, C] or of a sparse tensor; 0 where x is neither."""
    if isinstance(x, Tensor):
        return x.shape[1] if x.dim() == 3 else 0
    return len(x.feats) if hasattr(x, "feats") and hasattr(x, "coords") and hasattr(x, "replace") else 0


def _some(x: Any, count: int) -> Any:
    """The first tokens, as those of one object: cross-attention does not look at where they are."""
    if isinstance(x, Tensor):
        return x[:1, :count]
    coords = x.coords[:count].clone()
    coords[:, 0] = 0
    return type(x)(x.feats[:count], coords)


def _values(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else x.feats
