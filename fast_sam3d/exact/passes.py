"""Passes of an image network that were made before, and are handed out again.

A seam stands on each image encoder and on the depth network. What it is called with is compared, to the bit, with what
the earlier passes of this installation were called with; so is what it computes, so that two encoders with equal
weights share their passes. Kept are copies, handed out are copies of those: nobody can change what is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from fast_sam3d.exact.programs import Program, same_bits
from fast_sam3d.exact.settings import Exact
from fast_sam3d.patch import Layer, Seam
from fast_sam3d.sampling.exchange import Exchange

logger = logging.getLogger(__name__)

LIMITS: Final[Mapping[str, int]] = {"encoder": 16, "depth": 2}
"""Passes kept by kind, the least recently used go first.

An encoder's pass at the published sizes is 5.4 MiB of tokens and up to 3.1 MiB of input, 0.13 GiB for all; a depth
network's is 40 bytes for each pixel of the picture, 0.08 GiB for two pictures of a megapixel.
"""


@dataclass(eq=False)
class Pass:
    """One call that was made.

    Args:
        kind: the key of its number in `LIMITS`.
        equals: the encoders that compute the same, one of which was called; compared by identity.
        settings: of torch at that moment.
        given: copies of the arguments.
        result: a copy.
    """

    kind: str
    equals: list[Program]
    settings: tuple[Any, ...]
    given: Any
    result: Any


@dataclass(eq=False)
class Passes:
    """What one installation knows of earlier passes.

    Args:
        made: by age, the last used one last.
        equals: encoders by what they compute.
        running: the pipeline's `run` is on.
        states: encoders as they are in this run, by identity.
        differences: why encoders were found to differ, since that was last told.
        silenced: places that a log line was written for.
    """

    made: list[Pass] = field(default_factory=list)
    equals: list[list[Program]] = field(default_factory=list)
    running: bool = False
    states: dict[int, Program] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    silenced: set[str] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return sum(_bytes(kept.given) + _bytes(kept.result) for kept in self.made)

    def state(self, module: nn.Module) -> Program:
        """The module as it is now; within a run as it was at the run's first pass.

        Raises:
            ValueError: see `Program`.
        """
        state = self.states.get(id(module)) if self.running else None
        if state is None:
            state = Program(module)
            if self.running:
                self.states[id(module)] = state
        return state

    def group(self, module: nn.Module, share: bool) -> list[Program]:
        """The encoders that compute what `module` does.

        Args:
            module: an encoder.
            share: whether others count, too.

        Raises:
            ValueError: see `Program`.
        """
        state = self.state(module)
        for group in self.equals:
            if any(known.is_still(state) for known in group):
                return group
        self._forget_changed()
        for group in self.equals if share else ():
            difference = group[0].difference(state)
            if difference is None:
                group.append(state)
                return group
            self.differences.append(difference)
        self.equals.append([state])
        return self.equals[-1]

    def find(self, sought: Pass) -> Pass | None:
        """An earlier pass of the same encoder, or an equal one, with the same arguments and settings."""
        for kept in reversed(self.made):
            alike = kept.equals is sought.equals and kept.settings == sought.settings
            if alike and _same(kept.given, sought.given):
                self.made.remove(kept)
                self.made.append(kept)
                return kept
        return None

    def keep(self, new: Pass) -> None:
        """Keep one more, and no more than `LIMITS` allow."""
        self.made.append(new)
        same_kind = [kept for kept in self.made if kept.kind == new.kind]
        for old in same_kind[: -LIMITS[new.kind]]:
            self.made.remove(old)

    def _forget_changed(self) -> None:
        """Drop what is known of modules that are gone or not what they were."""
        for group in self.equals:
            group[:] = [known for known in group if _unchanged(known)]
        self.equals = [group for group in self.equals if group]
        self.made = [kept for kept in self.made if any(kept.equals is group for group in self.equals)]


@dataclass(frozen=True, slots=True)
class OneRun:
    """Goes around a pipeline's `run`.

    Args:
        images: passes outlive the run.
    """

    images: bool

    def __call__(self, scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        passes = passes_of(scene)
        passes.running = True
        try:
            return call(*args, **kwargs)
        finally:
            passes.running = False
            passes.states.clear()
            _say_if_nothing_is_shared(passes)
            if not self.images:
                passes.made.clear()


class PassSeam(Seam):
    """Stands in for the method of an image network that makes a pass.

    Args:
        module: the network.
        name: the method.
        kind: a key of `LIMITS`.
        place: what to call it in a log line.
    """

    def __init__(self, module: nn.Module, name: str, kind: str, place: str) -> None:
        super().__init__(module, name)
        self.kind, self.place = kind, place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original()
        layer = next((layer for layer in reversed(self.layers) if isinstance(layer.method, Exact)), None)
        if layer is None or layer.scene is None or torch.is_grad_enabled() or is_compiling():
            return call(*args, **kwargs)
        passes, exact = passes_of(layer.scene), layer.method
        if self.place in passes.silenced or not (exact.images or passes.running):
            return call(*args, **kwargs)
        try:
            group = passes.group(self.owner(), exact.embedders and self.kind == "encoder")
            new = Pass(self.kind, group, _torch_settings(args, kwargs), _copy([list(args), kwargs]), None)
        except (ValueError, RuntimeError) as error:
            self._silence(passes, str(error))
            return call(*args, **kwargs)
        kept = passes.find(new)
        if kept is not None:
            return _handed_out(kept.result)
        before = _random_state()
        result = call(*args, **kwargs)
        if not all(map(torch.equal, before, _random_state())):
            self._silence(passes, "it draws random numbers")
            return result
        try:
            new.result = _copy(result)
        except (ValueError, RuntimeError) as error:
            self._silence(passes, str(error))
        else:
            passes.keep(new)
        return result

    def discard(self, layer: Layer) -> None:
        """As every seam; what the layer's installation kept is freed."""
        super().discard(layer)
        if layer.scene is not None:
            layer.scene.passes = None

    def _silence(self, passes: Passes, reason: str) -> None:
        passes.silenced.add(self.place)
        logger.info("%s: exact.embedders and exact.images stay off here, because %s", self.place, reason)


def passes_of(scene: Exchange) -> Passes:
    """The passes of an installation."""
    if scene.passes is None:
        scene.passes = Passes()
    return scene.passes


def _say_if_nothing_is_shared(passes: Passes) -> None:
    told = "embedders"
    if passes.differences and told not in passes.silenced and all(len(group) == 1 for group in passes.equals):
        passes.silenced.add(told)
        reasons = ", ".join(dict.fromkeys(passes.differences))
        logger.info("exact.embedders saves nothing, because no two image encoders are equal (%s)", reasons)
    passes.differences.clear()


def _unchanged(known: Program) -> bool:
    module = known.module()
    if module is None:
        return False
    try:
        return known.is_still(Program(module))
    except (ValueError, RuntimeError):
        return False


def _torch_settings(args: Any, kwargs: Any) -> tuple[Any, ...]:
    """What else a result depends on."""
    kinds = sorted({tensor.device.type for tensor in _tensors_in([list(args), kwargs])} | {"cpu", "cuda"})
    autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
    return (
        autocast,
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


def _random_state() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _copy(value: Any) -> Any:
    """A copy that nobody else holds, of tensors that outlive inference mode.

    Raises:
        ValueError: something in it is of an unknown kind.
    """
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return value
    if type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_meta:
        with torch.inference_mode(False), torch.no_grad():
            copied = value.detach().clone()
        if copied.stride() == value.stride():
            return copied
        raise ValueError("a tensor lies in memory in a way that a copy would not keep")
    if type(value) is np.ndarray and value.dtype != object:
        return value.copy(order="K")
    if type(value) in (list, tuple):
        return type(value)(_copy(item) for item in value)
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    raise ValueError(f"it takes or gives a {type(value).__name__}")


def _handed_out(value: Any) -> Any:
    """As `_copy`, in the mode of whoever asked."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    if isinstance(value, (list, tuple)):
        return type(value)(_handed_out(item) for item in value)
    return {key: _handed_out(item) for key, item in value.items()} if isinstance(value, dict) else value


def _same(a: Any, b: Any) -> bool:
    """Whether two copies are alike to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return same_bits(a, b)
    if isinstance(a, np.ndarray):
        return (a.shape, a.dtype, a.strides) == (b.shape, b.dtype, b.strides) and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return [tensor for item in value.values() for tensor in _tensors_in(item)] if isinstance(value, dict) else []


def _bytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(value))
