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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.native.allocations import tensor_bytes
from fast_sam3d.native.free_memory import host_bytes
from fast_sam3d.native.parts import Part
from fast_sam3d.native.plans import Plan, expected_peaks, next_smaller
from fast_sam3d.serial import one_at_a_time

__all__ = ["Residency", "StagePeak"]

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
    """

    parts: Mapping[str, Part]
    plan: Plan
    device: torch.device
    half: torch.dtype | None = None
    peaks: dict[str, StagePeak] = field(default_factory=dict)
    """By stage, since `clear`."""
    smaller: list[str] = field(default_factory=list)
    """Plans that did not fit, since `clear`."""
    _loaded: dict[str, torch.dtype | None] = field(default_factory=dict)
    _used: list[str] = field(default_factory=list)
    _host: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _open: list[StagePeak] = field(default_factory=list)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the parts whose weights are on the device."""
        return tuple(self._loaded)

    @property
    def peak(self) -> int | None:
        """The largest peak of a stage in bytes; None before the first."""
        return max((peak.bytes for peak in self.peaks.values()), default=None)

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
            for name, half in [*self._loaded.items()]:
                unwanted = name not in plan.resident or half is not plan.half(name, self.half)
                if unwanted and name not in self._used:
                    self._release(name)
            for name in self._host.keys() - plan.to_host:
                del self._host[name]
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
            "resident": sorted(self.plan.resident & self.parts.keys()),
            "stages": {name: {"peak_bytes": peak.bytes, "loads": peak.loads} for name, peak in self.peaks.items()},
            "expected_bytes": expected,
        }

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Bytes of every part's weights in half precision and in float32, as `plans.choose` takes them."""
        return {name: (part.size(self.half), part.size(None)) for name, part in self.parts.items()}

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
        if (kept := self._host.get(name)) is not None:
            state = {key: tensor.to(self.device, non_blocking=True) for key, tensor in kept.items()}
            part.module.load_state_dict(state, strict=True, assign=True)
        else:
            part.load(self.device, half)
        self._loaded[name] = half

    def _release(self, name: str) -> None:
        part = self.parts[name]
        half = self._loaded.pop(name)
        if name in self.plan.to_host and self.device.type == "cuda" and half is self.plan.half(name, self.half):
            self._keep(name, part)
        part.release()

    def _keep(self, name: str, part: Part) -> None:
        """Copy a part's weights to main memory, unless that is done already or it has no room."""
        if name in self._host:
            return
        state = part.module.state_dict()
        available = host_bytes()
        if available is not None and sum(map(tensor_bytes, state.values())) + _SPARE > available:
            log.info("%s is read from its file again, because main memory has no room for it", name)
            return
        self._host[name] = {key: _to_host(tensor) for key, tensor in state.items()}

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


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in main memory, pinned where the system allows."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
    except RuntimeError:
        return tensor.to("cpu")


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
