"""The layout's velocity by the network itself, its tokens alone, at steps where the shape rests.

Shape tokens attend to shape tokens only, and layout tokens to both. So at an evaluated step the shape's keys and values
are kept, per block and per branch of guidance, and at a rested step the few layout tokens run through the blocks
against them, both branches as one batch. With keys and values of the same step that is the full evaluation, within
rounding; the shape is untouched.

`live_call` acts at the network's seam. In evaluated steps the network's own code runs, and hooks that live as long as
the call read its keys and values. In rested steps it returns the layout's leaves, so guidance mixes them as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.sampling.guide.calls import SolveState
from fast_sam3d.sampling.replay import Replay, recorded
from fast_sam3d.sampling.syncs import Syncs

Module: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class LayoutBlock:
    """The modules of one block that the layout's tokens go through, and two that the shape's keys come from.

    Args:
        norm1, norm2, norm3: before self-attention, cross-attention and MLP.
        to_qkv, to_out: of the self-attention, [.., C] -> [.., 3 C] and [.., C] -> [.., C].
        qk_norm: of queries and keys by head, [B, N, 2, H, D] -> same; None without.
        cross: (tokens, context) -> tokens.
        mlp: of the layout.
        shape_qkv, shape_k_norm: the shape's; hooks read their results.
    """

    norm1: Module
    norm2: Module
    norm3: Module
    to_qkv: Module
    to_out: Module
    qk_norm: Module | None
    cross: Any
    mlp: Module
    shape_qkv: Any
    shape_k_norm: Any


@dataclass(frozen=True, slots=True, eq=False)
class LayoutStream:
    """How a network computes the layout's velocity, as an adapter describes it.

    Args:
        blocks: in order.
        heads: of the self-attention.
        heads_first: shape_k_norm gives [B, H, N, D]; else [B, N, H, D].
        leaves: of the layout, in the order of their tokens.
        tokens: of all leaves together.
        to_tokens: leaves -> [B, tokens, C], in the type that the blocks compute in.
        to_leaves: [B, tokens, C] -> velocities of the leaves.
        modulation: (t [T], d) -> [blocks, T, 1, 6, C], shift, scale and gate of the self-attention and of the MLP.
    """

    blocks: Sequence[LayoutBlock]
    heads: int
    heads_first: bool
    leaves: Sequence[str]
    tokens: int
    to_tokens: Callable[[Mapping[str, Tensor]], Tensor]
    to_leaves: Callable[[Tensor], dict[str, Tensor]]
    modulation: Callable[[Tensor, Tensor | None], Tensor]


class LiveLayout:
    """What one solve keeps of the shape, and the evaluations of its layout.

    A branch of guidance whose call was not made in the last evaluated step, because guidance did not act or its method
    saved the call, has no keys. Its velocity is then the conditional one plus the difference of the two in that step:
    nothing where guidance did not act, and what the method gave otherwise.

    Args:
        times: that the network gets at each step; empty: unknown. Known, modulation is computed once for all steps.
        ahead: keys and values K of an evaluation are kept as K + ahead (K - kept before), which is ahead of them by
            that part of the way they came since. 0: K.
        syncs: of the solve. The host waits where a series of kernels is recorded: on CUDA, at most twice in a solve.

    Attributes:
        bytes: of the keys and values, the most so far.
    """

    def __init__(self, times: Sequence[float] = (), ahead: float = 0.0, syncs: Syncs | None = None) -> None:
        self.bytes = 0
        self._syncs = Syncs() if syncs is None else syncs
        self._times, self._ahead, self._step = times, ahead, 0
        self._modulations: Tensor | None = None
        self._version = 0  # of the place of all tensors that are kept
        self._replay: tuple[tuple[int, int], Replay] | None = None
        self._stream: LayoutStream | None = None
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._constants: dict[int, Tensor] = {}
        self._context: Tensor | None = None
        self._running = self._keeping = False
        self._branches = 1
        self._kept = self._before = 0
        self._conditional: Mapping[str, Tensor] = {}
        self._unconditional: Mapping[str, Tensor] | None = None
        self._difference: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        """Whether the keys and values of an evaluated step are there."""
        return self._kept > 0

    def before_evaluation(self, guided: bool, needed: bool) -> None:
        """The network runs next.

        Args:
            guided: the step has an unconditional call, too.
            needed: a rested step may follow.
        """
        self._running, self._keeping = False, needed
        self._before, self._kept, self._branches, self._difference = self._kept, 0, 1 + guided, {}
        if not needed:
            self._drop()

    def before_rest(self, step: int, guided: bool, again: bool) -> None:
        """The layout alone runs next.

        Args:
            step: of the solve.
            guided: as for an evaluation.
            again: some later step is guided.
        """
        self._running, self._step, self._branches = True, step, 1 + guided
        if self._kept == 2 and not (guided or again):
            self._kept = 1
            self._version += 1
            for kept in (self._keys, self._values):
                for number, tensor in kept.items():
                    kept[number] = tensor[: len(tensor) // 2].clone()

    def __call__(self, stream: Callable[[], LayoutStream], call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The network's call, or the layout's leaves alone."""
        if self._stream is None:
            self._stream = stream()
        unconditional = bool(kwargs.get("cfg"))
        if self._running:
            return self._branch(args, kwargs, unconditional)
        if not self._keeping:
            return call(*args, **kwargs)
        with self._hooks(unconditional):
            velocity = call(*args, **kwargs)
        if not unconditional:
            self._conditional = velocity
            self._kept = 1 if len(self._keys) == len(self._stream.blocks) else 0
        elif self._kept == 1:  # the method of guidance gave this velocity
            self._difference = {name: velocity[name] - self._conditional[name] for name in self._stream.leaves}
        return velocity

    def _branch(self, args: Any, kwargs: Any, unconditional: bool) -> dict[str, Tensor]:
        x, t = args[:2]
        if not unconditional:
            both = self._branches == self._kept == 2
            velocity = self._evaluate(x, t, kwargs.get("d"), 1 + both)
            self._conditional = {name: v.chunk(1 + both)[0] for name, v in velocity.items()}
            self._unconditional = {name: v.chunk(2)[1] for name, v in velocity.items()} if both else None
            return self._with_shape(x, self._conditional)
        found, self._unconditional = self._unconditional, None
        if found is None:
            found = {
                name: v + self._difference[name] if self._difference else v for name, v in self._conditional.items()
            }
        return self._with_shape(x, found)

    def _with_shape(self, x: Mapping[str, Tensor], layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leaves in the order of x, none of the shape's values among them."""
        return {name: layout[name] if name in layout else leaf[:, :0] for name, leaf in x.items()}

    def _evaluate(self, x: Mapping[str, Tensor], t: Tensor, d: Tensor | None, branches: int) -> dict[str, Tensor]:
        """Velocities of the layout's leaves, [branches * B, ...]."""
        stream = self._stream
        assert stream is not None
        modulation, leaves = self._modulation(t, d), [x[name] for name in stream.leaves]
        function = partial(self._through, branches)
        if self._modulations is not None and self._records(leaves[0]):
            place = (self._version, branches)
            if self._replay is None or self._replay[0] != place:
                self._replay = place, Replay(partial(recorded, self._syncs))
            found = self._replay[1](function, [modulation, *leaves])
        else:
            found = function(modulation, *leaves)
        return dict(zip(stream.leaves, found, strict=True))

    def _records(self, x: Tensor) -> bool:
        """Whether the kernels of a rested step are replayed without the host."""
        return x.is_cuda and not torch.is_grad_enabled()

    def _through(self, branches: int, modulation: Tensor, *leaves: Tensor) -> list[Tensor]:
        """Velocities of the layout's leaves through all blocks."""
        stream = self._stream
        assert stream is not None
        tokens = stream.to_tokens(dict(zip(stream.leaves, leaves, strict=True)))
        modulation = modulation.to(tokens.dtype)
        if branches == 2:
            tokens = torch.cat([tokens, tokens])
            if modulation.shape[1] > 1:
                modulation = torch.cat([modulation, modulation], dim=1)
        for number, block in enumerate(stream.blocks):
            tokens = self._block(number, block, tokens, modulation[number].unbind(2), branches)
        found = stream.to_leaves(tokens)
        return [found[name] for name in stream.leaves]

    def _modulation(self, t: Tensor, d: Tensor | None) -> Tensor:
        """[blocks, 1 or B, 1, 6, C] at this step, 1 added to the scales, in float32 or better."""
        alike = bool(self._times) and t.numel() == 1 and (d is None or d.numel() == 1)
        if not alike:
            return self._scaled(t, d)
        if self._modulations is None:  # filled in on the device, which needs no copy from the host
            times = [torch.full((), time, device=t.device, dtype=t.dtype) for time in self._times]
            self._modulations = self._scaled(torch.stack(times), d)
        return self._modulations[:, self._step : self._step + 1]

    def _scaled(self, t: Tensor, d: Tensor | None) -> Tensor:
        assert self._stream is not None
        modulation = self._stream.modulation(t, d)
        modulation = modulation.to(torch.promote_types(modulation.dtype, torch.float32))
        modulation[:, :, :, 1] += 1
        modulation[:, :, :, 4] += 1
        return modulation

    def _block(self, number: int, block: LayoutBlock, x: Tensor, modulation: Sequence[Tensor], branches: int) -> Tensor:
        """Tokens [R, N, C] after a block."""
        stream = self._stream
        assert stream is not None
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        rows, count, _ = x.shape
        qkv = block.to_qkv(torch.addcmul(shift1, block.norm1(x), scale1))
        qk, v = qkv.view(rows, count, 3, stream.heads, -1).tensor_split([2], dim=2)
        q, k = (qk if block.qk_norm is None else block.qk_norm(qk)).unbind(2)
        keys, values = self._keys[number][:rows], self._values[number][:rows]
        keys[:, -count:], values[:, -count:] = k, v[:, :, 0]
        q, keys, values = (y.transpose(1, 2) for y in (q, keys, values))
        attended = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).reshape(rows, count, -1)
        x = torch.addcmul(x, block.to_out(attended), gate1)
        few = rows // branches
        crossed = block.cross(block.norm2(x)[:few], self._context)
        if branches == 2:
            crossed = torch.cat([crossed, self._constants[number].expand_as(crossed)])
        x = x + crossed
        hidden = torch.addcmul(shift2, block.norm3(x), scale2)
        return torch.addcmul(x, block.mlp(hidden), gate2)

    @contextmanager
    def _hooks(self, unconditional: bool) -> Iterator[None]:
        """Within this block the network's blocks hand over what is kept of a call."""
        assert self._stream is not None
        handles = []
        try:
            for number, block in enumerate(self._stream.blocks):
                keep = partial(self._keep, number, unconditional)
                if block.shape_k_norm is None:
                    handles.append(block.shape_qkv.register_forward_hook(partial(keep, ("k", "v"))))
                else:
                    handles.append(block.shape_qkv.register_forward_hook(partial(keep, ("v",))))
                    handles.append(block.shape_k_norm.register_forward_hook(partial(keep, ("normed",))))
                handles.append(block.cross.register_forward_hook(partial(self._crossed, number, unconditional)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(
        self, number: int, unconditional: bool, parts: Sequence[str], module: Any, given: Any, result: Tensor
    ) -> None:
        """A hook: keep keys or values of the shape from [B, N, 3 C], or from normalised keys by head."""
        stream = self._stream
        assert stream is not None
        for part in parts:
            if part == "normed":
                found = result.transpose(1, 2) if stream.heads_first else result
            else:
                one = result.chunk(3, dim=-1)["qkv".index(part)]
                found = one.unflatten(-1, (stream.heads, -1))
            self._put(self._values if part == "v" else self._keys, number, unconditional, found)
        if unconditional:
            self._kept = 2
        if number == len(stream.blocks) - 1:
            tensors = [*self._keys.values(), *self._values.values()]
            self.bytes = max(self.bytes, sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    def _put(self, place: dict[int, Tensor], number: int, unconditional: bool, found: Tensor) -> None:
        """Keep [B, N, H, D] of a block and a branch, with room for the layout's own after it."""
        assert self._stream is not None
        batch, count = found.shape[:2]
        size = (count + self._stream.tokens, *found.shape[2:])
        old = place.pop(number, None)
        if old is not None and (old.shape[1:], old.dtype, old.device) != (size, found.dtype, found.device):
            old = None
        if old is not None and len(old) == batch * self._branches:
            kept = old
        else:
            kept = found.new_empty(batch * self._branches, *size)
            self._version += 1
            if old is not None and self._ahead:
                kept[:batch] = old[:batch]
        place[number] = kept
        rows = kept[batch * unconditional : batch * (1 + unconditional), :count]
        if self._ahead and self._before > unconditional and old is not None:
            rows.lerp_(found, 1 + self._ahead)
        else:
            rows.copy_(found)

    def _crossed(self, number: int, unconditional: bool, module: Any, given: Any, result: Tensor) -> None:
        """A hook: keep the context, or the result of attention to a context of zeros, which is one vector."""
        if not unconditional:
            self._context = given[1] if self._context is None else self._context
        elif number in self._constants:
            self._constants[number].copy_(result[:, :1])
        else:
            self._constants[number] = result[:, :1].clone()

    def _drop(self) -> None:
        self._keys.clear()
        self._values.clear()


def live_call(
    describe: Callable[[Any], LayoutStream],
    network: Any,
    state: SolveState,
    call: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The method of a live layout at a `NetworkSeam`; `describe` is an adapter's."""
    if state.live is None:
        return call(*args, **kwargs)
    return state.live(partial(describe, network), call, args, kwargs)
