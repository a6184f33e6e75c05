"""Networks whose weights are loaded and released as a whole: tensor by tensor, cast, checked, to any device."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.finite import is_finite
from fast_sam3d.model.weight_files import map_tensors
from fast_sam3d.native.names import UNUSED, module_tensor, of_network, published_name, stray_names

__all__ = ["FileWeights", "Source", "Tensors", "WeightsPart"]

log = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


class Source(Protocol):
    """Where the weights of a network come from."""

    def opened(self) -> AbstractContextManager[Tensors]:
        """The tensors by their names in the network, of any floating dtype; values are read when they are used."""
        ...

    def refuse(self, name: str, fault: str) -> CheckpointError:
        """The error about a tensor, by its name in the network."""
        ...


class FileWeights:
    """One network of a weights file of a checkpoint, `.ckpt` or `.safetensors`.

    Args:
        path: of the file.
        network: its name in the file, "generator" or "condition_embedder"; "" for the only one.
        restore: what to do about a bad file, for error messages.
    """

    def __init__(self, path: Path, network: str, restore: str = "download or convert this file again") -> None:
        self.path, self.restore = path, restore
        self._network = network
        self._keys: dict[str, str] = {}

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        # Mapped again each time: released, the network holds neither memory nor a file.
        every = {published_name(key): (key, value) for key, value in map_tensors(self.path, self.restore).items()}
        if self._network == "generator" and not self._keys and (strays := stray_names(every)):
            log.warning("%s: %d tensors belong to no network and are ignored: %s", self.path, len(strays), strays[0])
        tensors: dict[str, Tensor] = {}
        for name, (key, value) in of_network(every, self._network).items():
            if not name.startswith(UNUSED):
                inner, laid_out = module_tensor(name, value)
                tensors[inner], self._keys[inner] = laid_out, key
        yield tensors

    def refuse(self, name: str, fault: str) -> CheckpointError:
        return CheckpointError(f"the weights {self.path} {fault.format(self._keys.get(name, name))}: {self.restore}")


class WeightsPart:
    """A network and the source of its weights; see `native.parts.Part`.

    A network that several parts contain, such as a shared image encoder, is loaded by the first that needs it, and
    released with the last.

    Args:
        name: in the pipeline.
        module: on the meta device.
        sources: of the weights, by the type of half precision that they hold; None: float32, and all that are missing.
        in_half: names of the parameters that are multiplied in half precision.
        together: all parts of the pipeline, in their order; this one is added to them.
    """

    def __init__(
        self, name: str, module: nn.Module, sources: Mapping[torch.dtype | None, Source], in_half: Collection[str],
        together: list[WeightsPart],
    ) -> None:  # fmt: skip
        self.name, self.module = name, module.eval().requires_grad_(False)
        self.sources, self.in_half = sources, in_half
        self.together = together
        together.append(self)

    def check(self) -> None:
        """Compare names, shapes and dtypes with those of the source, without reading values.

        Raises:
            CheckpointError: they differ; names the file and the first name that does.
        """
        for source in self.sources.values():
            with source.opened() as tensors:
                self._check(source, tensors)

    def size(self, half: torch.dtype | None) -> int:
        """Bytes that the loaded weights take; what several parts contain is counted in the first."""
        return sum(shape.numel() * dtype.itemsize for _, shape, dtype in self.layout(half))

    def load(self, device: torch.device, half: torch.dtype | None) -> None:
        """See `Part.load`.

        Raises:
            CheckpointError: a tensor is missing, surplus or misshapen, or has values that are not finite.
        """
        device = torch.empty(0, device=device).device  # "cuda" with its number
        source, finite = self._source(half), {}
        with source.opened() as tensors:
            self._check(source, tensors)
            try:
                for slot in self._slots():
                    dtype = self.dtype(slot.name, half)
                    if (slot.value.device, slot.value.dtype) != (device, dtype):
                        value = _copied(tensors[slot.name], device, dtype)
                        finite[slot.name] = is_finite(value)
                        slot.put(value)
                self._refuse_infinite(source, finite, half)
            except BaseException:
                self.release()
                raise

    def layout(self, half: torch.dtype | None) -> Iterator[tuple[str, torch.Size, torch.dtype]]:
        """Name, shape and type of every tensor; what several parts contain is in the first."""
        for slot in self._slots():
            if self._parts_with(slot.owner)[0] is self:
                yield slot.name, slot.value.shape, self.dtype(slot.name, half)

    def read(self, half: torch.dtype | None, only: torch.dtype) -> Iterator[Tensor]:
        """The tensors of `layout` that have a type, one after the other, on the CPU; the network is unchanged.

        Raises:
            CheckpointError: as `load`.
        """
        source = self._source(half)
        with source.opened() as tensors:
            self._check(source, tensors)
            for name, _, dtype in self.layout(half):
                if dtype is only:
                    value = _copied(tensors[name], torch.device("cpu"), dtype)
                    self._refuse_infinite(source, {name: is_finite(value)}, half)
                    yield value

    def release(self) -> None:
        """See `Part.release`."""
        for slot in self._slots():
            needed = any(part.loaded for part in self._parts_with(slot.owner) if part is not self)
            if not (needed or slot.value.is_meta):
                slot.put(torch.empty_like(slot.value, device="meta"))

    @property
    def loaded(self) -> bool:
        """Whether the weights that no other part contains are there."""
        own = (slot for slot in self._slots() if self._parts_with(slot.owner) == [self])
        return all(not slot.value.is_meta for slot in own)

    def dtype(self, name: str, half: torch.dtype | None) -> torch.dtype:
        """The type in which a tensor is loaded; half: see `load`."""
        return half if half is not None and name in self.in_half else torch.float32

    def _source(self, half: torch.dtype | None) -> Source:
        return self.sources.get(half, self.sources[None])

    def _slots(self) -> Iterator[_Slot]:
        """Every tensor of the network once."""
        for prefix, owner in self.module.named_modules():
            for own in (owner._parameters, owner._buffers):
                for leaf, value in own.items():
                    if value is not None and leaf not in owner._non_persistent_buffers_set:
                        yield _Slot(f"{prefix}.{leaf}" if prefix else leaf, owner, leaf, value)

    def _parts_with(self, owner: nn.Module) -> list[WeightsPart]:
        """The parts that contain a network, in their order."""
        return [part for part in self.together if owner in part._owners]

    @cached_property
    def _owners(self) -> frozenset[nn.Module]:
        return frozenset(self.module.modules())

    def _check(self, source: Source, tensors: Tensors) -> None:
        shapes = getattr(tensors, "like", tensors.__getitem__)  # of tensors that are generated
        wanted = self.module.state_dict()
        for name, like in wanted.items():
            if name not in tensors:
                raise source.refuse(name, "lack {}")
            given = shapes(name)
            if given.shape != like.shape:
                raise source.refuse(name, f"have {{}} as {list(given.shape)}, and the network takes {list(like.shape)}")
            if not given.is_floating_point() or given.dtype.itemsize < 2:
                kind = str(given.dtype).removeprefix("torch.")
                raise source.refuse(
                    name, f"have {{}} as {kind}, and only floating point weights of 16 bits or more are supported"
                )
        if surplus := sorted(tensors.keys() - wanted.keys()):
            more = f" and {len(surplus) - 1} more" if surplus[1:] else ""
            raise source.refuse(surplus[0], f"have {{}}{more}, which the network lacks")

    def _refuse_infinite(self, source: Source, finite: Mapping[str, Tensor], half: torch.dtype | None) -> None:
        if not finite:
            return
        for name, fine in zip(finite, torch.stack([*finite.values()]).tolist(), strict=True):
            if not fine:
                kind = str(self.dtype(name, half)).removeprefix("torch.")
                raise source.refuse(name, f"have values in {{}} that are not finite in {kind}")


class _Slot(NamedTuple):
    """A tensor of a network: its full name, its module, its name and value there."""

    name: str
    owner: nn.Module
    leaf: str
    value: Tensor

    def put(self, value: Tensor) -> None:
        if self.leaf in self.owner._parameters:
            self.owner._parameters[self.leaf] = nn.Parameter(value, requires_grad=False)
        else:
            self.owner._buffers[self.leaf] = value


def _copied(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on a device, in another type; values are read from the file here."""
    if device.type == "cpu":
        return torch.empty(value.shape, dtype=dtype, device=device).copy_(value)
    if value.dtype is torch.float64:  # which MPS lacks
        value = value.float()
    return value.to(device).to(dtype).contiguous()
