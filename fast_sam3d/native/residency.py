"""Loads the weights of a stage before it runs, and lets them leave the device as the memory plan says.

    with residency.using("ss_generator"):
        latents = generator(...)

Weights that do not stay leave the device when another stage needs room, not before: objects that go through one stage
after another share one load. The module objects stay the same, so that seams and hooks on them survive.
"""

from __future__ import annotations

import gc
import logging
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.native.allocations import tensor_bytes
from fast_sam3d.native.free_memory import host_bytes
from fast_sam3d.native.mesh_decoder import MeshDecoder
from fast_sam3d.native.parts import Part
from fast_sam3d.native.plans import STAGES, Plan, choose, expected_peaks, logged, next_smaller
from fast_sam3d.native.points import PointPatchEmbed
from fast_sam3d.serial import one_at_a_time

__all__ = ["Residency", "StagePeak", "configure"]

log = logging.getLogger(__name__)

_SPARE = 2 << 30
"""Bytes of main memory that copies of weights leave free."""


@dataclass(slots=True)
class StagePeak:
    """What one stage took.

    Args:
        bytes: CUDA: the most that torch had allocated; MPS: allocated at the end; CPU: resident at the end.
        loads: times that weights were loaded for it.
    """

    bytes: int = 0
    loads: int = 0


@dataclass(eq=False)
class Residency:
    """Where the weights of a pipeline's parts are.

    Args:
        parts: by name.
        plan: the memory plan.
        device: that the parts run on.
        half: type of half precision in which the pipeline runs; None: float32.
        copies: whether main memory is another memory than the device's, so that copies of weights there help.
    """

    parts: Mapping[str, Part]
    plan: Plan
    device: torch.device
    half: torch.dtype | None = None
    copies: bool | None = None
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    """By stage, since `clear`."""
    smaller: list[str] = field(default_factory=list)
    """Plans that did not fit, since `clear`."""
    _loaded: dict[str, torch.dtype | None] = field(default_factory=dict)
    _used: list[str] = field(default_factory=list)
    _host: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = field(default_factory=WeakKeyDictionary)
    """Copies of weights in main memory, by the module that holds them, which several parts may contain."""
    _open: list[StagePeak] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_host"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _host=WeakKeyDictionary())

    def __post_init__(self) -> None:
        self.copies = self.device.type == "cuda" if self.copies is None else self.copies
        configure(self.plan, (part.module for part in self.parts.values()))

    @classmethod
    def planned(
        cls, parts: Mapping[str, Part], memory: str, device: torch.device, half: torch.dtype | None = None
    ) -> Residency:
        """By the name of a plan, or "auto"; checked and logged before anything is loaded.

        Raises:
            DoesNotFitDevice: as `plans.choose`.
        """
        sizes = _sizes(parts, half)
        plan = logged(choose(memory, device, half, sizes), device, half, sizes)
        return cls(parts, plan, device, half)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the parts whose weights are on the device."""
        return tuple(self._loaded)

    @property
    def peak(self) -> int | None:
        """The largest peak of a stage in bytes; None before the first."""
        return max((peak.bytes for peak in self.peaks.values()), default=None)

    def peak_device_bytes(self, since: int | None) -> int | None:
        """The peak of a CUDA device: the larger of `since`, which stages set back, and of those of the stages."""
        return since if self.device.type != "cuda" or since is None else max(since, self.peak or 0)

    @contextmanager
    def using(self, *names: str, stage: str = "") -> Iterator[None]:
        """Have the weights of some parts on the device for the length of a block; names that are unknown are skipped.

        Args:
            names: of parts. Without any, weights that do not stay leave the device, for a stage that has none.
            stage: its name in the report; by default the names.

        Raises:
            CheckpointError: the weights cannot be read. RuntimeError, MemoryError: they do not fit. Then those of this
            block are not on the device.
        """
        names = tuple(name for name in names if name in self.parts)
        with one_at_a_time():
            label = stage or "+".join(names)
            record = self.peaks.setdefault(label, StagePeak()) if label else StagePeak()
            self._fold()
            self._open.append(record)
            before = len(self._used)
            try:
                self._prepare(names, record)
                self._used += names
                yield
            finally:
                del self._used[before:]
                self._fold()
                self._open.pop()

    def release(self) -> None:
        """Take all weights off the device, but for those in use."""
        with one_at_a_time():
            for name in [name for name in self._loaded if name not in self._used]:
                self._release(name)
            self._empty()

    def change(self, plan: Plan) -> None:
        """Follow another plan from now on; what it does not keep leaves the device."""
        with one_at_a_time():
            self.plan = plan
            configure(plan, (part.module for part in self.parts.values()))
            for name, half in [*self._loaded.items()]:
                unwanted = name not in plan.resident or half is not plan.half(name, self.half)
                if unwanted and name not in self._used:
                    self._release(name)
            self._host.clear()
            gc.collect()
            self._empty()

    def shrink(self) -> Plan | None:
        """Follow the next smaller plan, after out of memory; None where there is none."""
        with one_at_a_time():
            plan = next_smaller(self.plan)
            if plan is None:
                return None
            self.smaller.append(self.plan.name)
            self.change(plan)
            return plan

    def clear(self) -> None:
        """Forget the peaks and the plans that did not fit; for each run."""
        self.peaks.clear()
        self.smaller.clear()

    def facts(self, voxels: int | None = None) -> dict[str, Any]:
        """JSON-ready: the plan, plans that did not fit, and bytes per stage; expected ones for a number of voxels."""
        expected = {} if voxels is None else expected_peaks(self.plan, voxels, self.half, self.sizes())
        return {
            "plan": self.plan.name,
            "did_not_fit": list(self.smaller),
            "measured": {"cuda": "allocated", "mps": "allocated"}.get(self.device.type, "resident"),
            "resident": sorted(self.plan.resident & self.parts.keys()),
            "stages": {name: {"peak_bytes": peak.bytes, "loads": peak.loads} for name, peak in self.peaks.items()},
            "expected_bytes": {STAGES[stage][0]: size for stage, size in expected.items()},
        }

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Bytes of every part's weights in half precision and in float32, as `plans.choose` takes them."""
        return _sizes(self.parts, self.half)

    def _prepare(self, names: Sequence[str], record: StagePeak) -> None:
        """Take off what neither stays nor is used, then load what is missing; all of it, or nothing."""
        stays = {*self.plan.resident, *self._used, *names}
        leaving = [name for name in self._loaded if name not in stays]
        for name in leaving:
            self._release(name)
        if leaving:
            self._empty()
        missing = [name for name in dict.fromkeys(names) if name not in self._loaded]
        try:
            for name in missing:
                self._load(name)
                record.loads += 1
        except BaseException:
            for name in missing:
                self._loaded.pop(name, None)
                self.parts[name].release()
            raise

    def _load(self, name: str) -> None:
        part, half = self.parts[name], self.plan.half(name, self.half)
        for module in part.module.modules():
            for key, tensor in self._host.get(module, {}).items():
                if (parameter := module._parameters[key]) is not None and parameter.is_meta:
                    on_device = tensor.to(self.device, non_blocking=True)
                    module._parameters[key] = nn.Parameter(on_device, requires_grad=False)
        if any(tensor.is_meta for tensor in part.module.state_dict().values()):
            part.load(self.device, half)
        self._loaded[name] = half

    def _release(self, name: str) -> None:
        part = self.parts[name]
        half = self._loaded.pop(name)
        if name in self.plan.to_host and self.copies and half is self.plan.half(name, self.half):
            self._keep(name, part)
        part.release()

    def _keep(self, name: str, part: Part) -> None:
        """Copy a part's parameters to main memory, unless that is done already or it has no room."""
        new = [module for module in part.module.modules() if module._parameters and module not in self._host]
        available = host_bytes()
        if available is not None and sum(tensor_bytes(p) for m in new for p in _own(m).values()) + _SPARE > available:
            log.info("%s is read from its file again, because main memory has no room for it", name)
            return
        for module in new:
            self._host[module] = {key: _to_host(parameter) for key, parameter in _own(module).items()}

    def _empty(self) -> None:
        """Return cached blocks to the device: weights and activations have different sizes."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _fold(self) -> None:
        """Add what was measured since the last call to all blocks that are open."""
        size = _measured(self.device)
        for record in self._open:
            record.bytes = max(record.bytes, size)


def configure(plan: Plan, modules: Iterable[nn.Module]) -> None:
    """Set what networks keep and how much they compute at once, as a plan says; no results change but by rounding."""
    for module in (inner for outer in modules for inner in outer.modules()):
        if isinstance(module, SparseStructureFlow):
            module.keep_context = plan.ss_context
        elif isinstance(module, StructuredLatentFlow):
            module.keep_context = plan.slat_context
        elif isinstance(module, MeshDecoder):
            module.chunk = plan.mesh_cells
        elif isinstance(module, PointPatchEmbed):
            module.chunk = plan.point_windows


def _sizes(parts: Mapping[str, Part], half: torch.dtype | None) -> dict[str, tuple[int, int]]:
    return {name: (part.size(half), part.size(None)) for name, part in parts.items()}


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module itself that have values."""
    return {key: p for key, p in module._parameters.items() if p is not None and not p.is_meta}


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in main memory, pinned where the system allows."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
    except RuntimeError:
        return tensor.to("cpu", copy=True)


def _measured(device: torch.device) -> int:
    """Bytes; see `StagePeak`. On CUDA the measurement starts anew."""
    if device.type == "cuda":
        size = int(torch.cuda.max_memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        return size
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return _resident()


def _resident() -> int:
    """Resident bytes of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0
