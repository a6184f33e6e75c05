"""Reuse of earlier passes of the image encoders and of the depth network.

A pass is reused when three things are equal: the network (its class, settings and weights), the inputs, bit for bit,
and torch's own settings. Copies are stored and copies are returned, so callers may change what they get.

The state of a network is read once per run: the class and the plain attributes of every part, and the storage and
version of every weight. Torch counts the version up with every in-place operation. Only writes through `.data`, or
through a numpy view, leave no trace: call `accelerate` again after those.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.multiprocessing.reductions import StorageWeakRef

from fast_sam3d.exact.settings import Exact
from fast_sam3d.patch import Layer, Seam
from fast_sam3d.sampling.exchange import Exchange

logger = logging.getLogger(__name__)

LIMITS: Final[Mapping[str, int]] = {"encoder": 16, "depth": 2}
"""Passes stored by kind; the least recently used go first.

At the published sizes an encoder's pass is 5.4 MiB of tokens and up to 3.1 MiB of input, 0.13 GiB for all; a depth
network's is 40 bytes per pixel of the image, 0.08 GiB for two images of a megapixel.
"""

PLAIN: Final[tuple[type, ...]] = (Tensor, nn.Parameter)
"""Types of tensors that a copy keeps all of."""

_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))

Place: TypeAlias = tuple[Any, ...]
"""Of a tensor: its storage, and what of that it shows."""
State: TypeAlias = tuple[Hashable, tuple[Place, ...]]
"""Of a network: equal as long as nothing in it has changed; its parts, and the places of its weights."""


@dataclass(eq=False)
class Pass:
    """One call of a network.

    Args:
        key: the network's number, torch's settings, and the arguments that are not tensors.
        given: copies of the tensors among the arguments.
        result: a copy.
    """

    key: tuple[Any, ...]
    given: list[Tensor]
    result: Any = None


@dataclass(eq=False)
class Passes:
    """The passes that one installation stores.

    Args:
        stored: by kind, the last used one last.
        numbers: of the states of networks; equal encoders have the same number.
        encoders: every encoder with its state when it was last read.
        running: the pipeline's `run` is on.
        reused: passes of encoders that were reused in this run.
        states: of the networks that were read in this run, by identity.
        disabled: places, or savings, that a log line was written for.
    """

    stored: dict[str, deque[Pass]] = field(default_factory=lambda: {k: deque(maxlen=n) for k, n in LIMITS.items()})
    numbers: dict[State, int] = field(default_factory=dict)
    encoders: WeakKeyDictionary[nn.Module, State] = field(default_factory=WeakKeyDictionary)
    running: bool = False
    reused: int = 0
    states: dict[int, State] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)

    def number(self, module: nn.Module, share: bool) -> int:
        """The number of a network in its present state, within a run in its state at the run's first pass.

        Args:
            module: the network.
            share: an encoder that equals an earlier one gets its number.

        Raises:
            ValueError: its passes cannot be reused; the message says why.
        """
        state = self.states.get(id(module)) if self.running else None
        if state is None:
            _check(module)
            state = _state(module)
        if self.running:
            self.states[id(module)] = state
        if state not in self.numbers:
            others = [(other, old) for other, old in self.encoders.items() if share and other is not module]
            equal = (self.numbers[old] for other, old in others if _state(other) == old and _equal(other, module))
            self.numbers[state] = next(equal, 1 + max(self.numbers.values(), default=-1))
            if share:
                self.encoders[module] = state
        return self.numbers[state]

    def find(self, kind: str, key: tuple[Any, ...], given: list[Tensor]) -> Pass | None:
        """The earlier pass of an equal network with equal arguments, or None."""
        stored = self.stored[kind]
        for known in reversed(stored):
            if known.key == key and all(map(same_bits, known.given, given)):
                stored.remove(known)
                stored.append(known)
                self.reused += kind == "encoder"
                return known
        return None

    def end(self, keep: bool, complete: bool) -> None:
        """The pipeline's `run` has ended; `keep` the passes for the next one. An incomplete one does not tell whether
        passes are shared: it may have stopped between the embedders."""
        self.running = False
        numbers = [self.numbers[state] for module, state in self.encoders.items() if id(module) in self.states]
        self.states.clear()
        judged = complete and "embedders" not in self.disabled
        if judged and len(numbers) == len(set(numbers)) > 1 and not self.reused:
            self.disabled.add("embedders")
            logger.info("exact.embedders saves nothing, because no two image encoders have equal settings and weights")
        for stored in self.stored.values() if not keep else ():
            stored.clear()
        self._forget_released()

    def _forget_released(self) -> None:
        """Forget states of weights that are gone: they cannot come back, and their passes cannot be found."""
        gone = {state for state in self.numbers if any(place[0].expired() for place in state[1])}
        numbers = {self.numbers.pop(state) for state in gone} - {*self.numbers.values()}
        for module in [module for module, state in self.encoders.items() if state in gone]:
            del self.encoders[module]
        for kind, stored in self.stored.items():
            kept = [known for known in stored if known.key[0] not in numbers]
            self.stored[kind] = deque(kept, maxlen=stored.maxlen)


def one_run(images: bool, scene: Exchange, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Wraps a pipeline's `run`.

    Args:
        images: keep the passes for the next run.
    """
    passes = passes_of(scene)
    passes.running, passes.reused = True, 0
    complete = False
    try:
        result = call(*args, **kwargs)
        complete = True
        return result
    finally:
        passes.end(images, complete)


class PassSeam(Seam):
    """Replaces the method of an image network that runs one pass.

    Args:
        module: the network.
        name: the method.
        kind: a key of `LIMITS`.
        place: its name in log lines.
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
        if self.place in passes.disabled or not (exact.images or passes.running):
            return call(*args, **kwargs)
        values = [*args, *kwargs.values()]
        given = [value for value in values if isinstance(value, Tensor)]
        try:
            others = [(type(value), None if isinstance(value, Tensor) else _copy(value)) for value in values]
            number = passes.number(self.owner(), exact.embedders and self.kind == "encoder")
            key = (number, _torch_settings(given), *kwargs, *others)
            known = passes.find(self.kind, key, given)
            if known is not None:
                return _handed_out(known.result)
            new = Pass(key, [_copy(value) for value in values if isinstance(value, Tensor)])
        except (ValueError, RuntimeError) as error:
            self._disable(passes, str(error))
            return call(*args, **kwargs)
        before = _random_state()
        result = call(*args, **kwargs)
        try:
            if not all(map(torch.equal, before, _random_state())):
                raise ValueError("it draws random numbers")
            new.result = _copy(result)
        except (ValueError, RuntimeError) as error:
            self._disable(passes, str(error))
        else:
            passes.stored[self.kind].append(new)
        return result

    def discard(self, layer: Layer) -> None:
        """As every seam; the passes that the layer's installation stored are freed."""
        super().discard(layer)
        if layer.scene is not None:
            layer.scene.passes = None

    def _disable(self, passes: Passes, reason: str) -> None:
        passes.disabled.add(self.place)
        logger.info("%s: exact.embedders and exact.images stay off here, because %s", self.place, reason)


def passes_of(scene: Exchange) -> Passes:
    """The passes of an installation."""
    if scene.passes is None:
        scene.passes = Passes()
    return scene.passes


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN and the sign of zero included, with the same memory layout."""
    if (a.shape, a.dtype, a.device, a.stride()) != (b.shape, b.dtype, b.device, b.stride()):
        return False
    return torch.equal(*(x.detach().reshape(-1).view(torch.uint8) for x in (a, b)))


def _check(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise ValueError(f"its part '{name}' is in training mode")
        if part is not module and (part._forward_hooks or part._forward_pre_hooks):
            raise ValueError(f"its part '{name}' has hooks")


def _state(module: nn.Module) -> State:
    return _parts(module), tuple(map(_place, _weights(module).values()))


def _parts(module: nn.Module) -> tuple[Hashable, ...]:
    """Name, class and attributes of every part of a network."""
    return tuple(
        (name, type(part), type(part).forward, *_attributes(vars(part))) for name, part in module.named_modules()
    )


def _attributes(values: Mapping[str, Any]) -> Iterator[Hashable]:
    for name in sorted(values.keys() - _OF_EVERY_MODULE):
        value = values[name]
        if not isinstance(value, Seam):
            yield name, _setting(value)
        elif value.earlier is not None:
            yield name, id(value.earlier)


def _setting(value: Any) -> Hashable:
    """A key that compares plain values by content, everything else by identity."""
    if value is None or isinstance(value, (bool, int, float, str, type, torch.dtype, torch.device)):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_setting, value))
    if isinstance(value, dict):
        return type(value), tuple((_setting(key), _setting(item)) for key, item in value.items())
    return _place(value) if isinstance(value, Tensor) else id(value)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))


def _place(tensor: Tensor) -> Place:
    """Changes with every in-place operation. The reference keeps the storage's identity from being used again."""
    storage = StorageWeakRef(tensor.untyped_storage())
    return storage, tensor.storage_offset(), tensor._version, tensor.shape, tensor.stride(), tensor.dtype


def _equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have equal settings, and equal weights bit for bit."""
    mine, others = _weights(a), _weights(b)
    alike = mine.keys() == others.keys() and _parts(a) == _parts(b)
    return alike and all(same_bits(tensor, others[name]) for name, tensor in mine.items())


def _torch_settings(tensors: Iterable[Tensor]) -> tuple[Hashable, ...]:
    """Torch's own settings that a result depends on."""
    kinds = sorted({tensor.device.type for tensor in tensors} | {"cpu", "cuda"})
    return (
        *((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds),
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
    """A copy of a tensor, or of a mapping of tensors, that outlives inference mode.

    Raises:
        ValueError: something in it is of an unknown kind.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) not in PLAIN or value.is_meta:
        raise ValueError(f"it takes or returns a {type(value).__name__}")
    with torch.inference_mode(False), torch.no_grad():
        copied = value.detach().clone()
    if copied.stride() != value.stride():
        raise ValueError("a copy of one of its tensors would have another memory layout")
    return copied


def _handed_out(value: Any) -> Any:
    """As `_copy`, in the caller's mode."""
    if isinstance(value, dict):
        return {key: _handed_out(item) for key, item in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
