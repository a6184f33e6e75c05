"""Memory plans: which weights stay on the device, and how much at once the stages compute.

A plan changes where weights are and in how many pieces a stage runs, not what it computes. The expected peak of a stage
is

    resident weights + weights of the stage + kept keys and values + activations,

    keys and values = streams kept * context tokens * 2 * width * blocks * bytes of a number,
    activations = fixed + per voxel * voxels   (`ACTIVATIONS`, doubled in float32),

and for the mesh decoder `CELL` bytes more for every cell that is computed at once. Weights are counted from their own
sizes. The other constants are upper bounds of an allocation trace of the networks at the published sizes
(tests/native/test_plans.py), so the estimate is for those sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.model.config import SHAPE_LEAF, STREAMS
from fast_sam3d.native.free_memory import free_bytes

__all__ = [
    "AUTO", "LARGE", "NAMES", "PLANS", "PUBLISHED_BYTES", "STAGES", "DoesNotFitDevice", "Plan", "choose",
    "expected_peaks", "free_bytes", "logged", "next_smaller", "smallest",
]  # fmt: skip

log = logging.getLogger(__name__)

AUTO: Final = "auto"
GIB: Final = 2**30
USUAL, LARGE = 20_000, 40_000
"""Voxels of an object that has to fit, and of one that is to fit where there is a choice."""

STAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "depth": ("depth_model",),
    "condition": ("ss_condition_embedder", "slat_condition_embedder"),
    "ss": ("ss_generator", "ss_decoder"),  # methods may decode in mid-solve
    "ss_decoder": ("ss_decoder",),
    "slat": ("slat_generator",),
    "gaussian": ("slat_decoder_gs",),
    "gaussian_4": ("slat_decoder_gs_4",),
    "mesh": ("slat_decoder_mesh",),
})  # fmt: skip
"""The parts that a stage needs at the same time."""

SAMPLERS: Final = frozenset({"ss_generator", "slat_generator"})
ENCODERS: Final = frozenset({"ss_condition_embedder", "slat_condition_embedder", "depth_model"})
DECODERS: Final = frozenset({"ss_decoder", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"})
EVERYTHING: Final = SAMPLERS | ENCODERS | DECODERS

PUBLISHED_BYTES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({
    name: (int(parameters * 1e6 * (4 if name == "ss_decoder" else 2)), int(parameters * 1e6 * 4))
    for name, parameters in {
        "ss_generator": 964.2, "ss_condition_embedder": 634.5, "slat_generator": 600.5,
        "slat_condition_embedder": 626.1, "ss_decoder": 73.7, "slat_decoder_mesh": 90.9, "slat_decoder_gs": 85.4,
        "slat_decoder_gs_4": 85.1, "depth_model": 315.8,
    }.items()
})  # fmt: skip
"""Bytes of each part's weights in half precision and in float32, before files are read; image encoders not shared."""

_KEYS: Final = {"ss": 7528 * 2048 * 24, "slat": 5496 * 2048 * 24}
"""Keys and values of one stream: context tokens, twice the width, blocks."""

ACTIVATIONS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({
    "depth": (512 << 20, 0),
    "condition": (192 << 20, 0),
    "ss": (192 << 20, 0),
    "ss_decoder": (192 << 20, 0),
    "slat": (64 << 20, 24 << 10),
    "gaussian": (32 << 20, 17 << 10),
    "gaussian_4": (32 << 20, 17 << 10),
    "mesh": (32 << 20, 44 << 10),
})  # fmt: skip
"""Bytes that a stage needs beside weights in half precision: fixed, and per voxel."""
CELL, WHOLE_CELL = 1500, 1000
"""Bytes for every cell that the mesh decoder computes at once, of a part or of all; a voxel has 64."""


HOST: Final = 1300 << 20
"""Bytes that a process on a CPU takes beside the peak of a plan: torch, and what its products keep (measured, see
docs/weights.md)."""


class DoesNotFitDevice(FastSam3dError):
    """A device without enough memory for the smallest plan."""


@dataclass(frozen=True)
class Plan:
    """Where weights are, and in how many pieces the stages run.

    Args:
        name: as in the configuration.
        resident: parts that stay on the device once loaded; the others leave it for the next stage.
        to_host: parts that are kept in main memory (pinned for CUDA) after they have left the device, if that has room;
            the others are read again from their file, which is mapped.
        float32: parts whose weights are float32 also where the pipeline runs in half precision, as the published
            pipeline holds them.
        ss_context: streams of the sparse structure whose keys and values of the context are kept over the steps.
        slat_context: whether those of the structured latent are.
        mesh_cells: cells that the mesh decoder computes at once; None: all.
        point_windows: windows of the point map that are embedded at once; None: all.
    """

    name: str
    resident: frozenset[str] = frozenset()
    to_host: frozenset[str] = frozenset()
    float32: frozenset[str] = frozenset()
    ss_context: frozenset[str] = frozenset(STREAMS)
    slat_context: bool = True
    mesh_cells: int | None = None
    point_windows: int | None = 256

    def half(self, part: str, half: torch.dtype | None) -> torch.dtype | None:
        """The type to load a part's half-precision weights in, where the pipeline's is `half`."""
        return None if part in self.float32 else half

    @property
    def releases(self) -> bool:
        """Whether weights of samplers or decoders leave the device between stages."""
        return not self.resident >= SAMPLERS | DECODERS


PLANS: Final[Mapping[str, Plan]] = MappingProxyType({
    plan.name: plan
    for plan in (
        Plan("8GB", ss_context=frozenset({SHAPE_LEAF}), mesh_cells=1 << 16),
        Plan("12GB", SAMPLERS | DECODERS, to_host=ENCODERS, mesh_cells=1 << 17),
        Plan("16GB", EVERYTHING, mesh_cells=1 << 18),
        Plan("24GB", EVERYTHING),
        Plan("all", EVERYTHING, float32=frozenset({"ss_generator"}) | ENCODERS - {"depth_model"}),
    )
})  # fmt: skip
"""The plans by name, the smallest first."""
NAMES: Final = (AUTO, *PLANS)
"""Values of `pipeline.memory`."""


def smallest() -> Plan:
    """The plan that needs least memory."""
    return next(iter(PLANS.values()))


def logged(plan: Plan, device: torch.device, half: torch.dtype | None, sizes: Mapping[str, tuple[int, int]]) -> Plan:
    """The plan, after a log line with its name and what it is expected to need."""
    peaks = expected_peaks(plan, LARGE, half, sizes)
    stage = max(peaks, key=lambda name: peaks[name])
    log.info(
        "memory plan %s on %s: at most about %.1f GiB for an object of %s voxels (in %s)",
        plan.name, device, peaks[stage] / GIB, f"{LARGE:,}", stage,
    )  # fmt: skip
    return plan


def next_smaller(plan: Plan) -> Plan | None:
    """The plan before this one; None for the smallest, and for one that is not of `PLANS`."""
    names = [*PLANS]
    place = names.index(plan.name) if plan.name in names else 0
    return PLANS[names[place - 1]] if place else None


def expected_peaks(
    plan: Plan,
    voxels: int,
    half: torch.dtype | None = torch.float16,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, int]:
    """Expected peak of every stage in bytes; see the module.

    Args:
        voxels: of the object.
        half: the pipeline's type of half precision; None: float32.
        sizes: bytes of the parts' weights (in half precision, in float32); None: the published ones. Parts that are
            missing are counted as 0.
    """
    sizes = PUBLISHED_BYTES if sizes is None else sizes

    def weights(part: str) -> int:
        return sizes.get(part, (0, 0))[plan.half(part, half) is None]

    number = 4 if half is None else 2
    peaks: dict[str, int] = {}
    for stage, parts in STAGES.items():
        if not any(part in sizes for part in parts):
            continue
        fixed, each = ACTIVATIONS[stage]
        if stage == "mesh":
            cells = 64 * voxels
            fixed += WHOLE_CELL * cells if plan.mesh_cells is None else CELL * min(cells, plan.mesh_cells)
        streams = {"ss": len(plan.ss_context), "slat": int(plan.slat_context)}.get(stage, 0)
        kept = streams * _KEYS.get(stage, 0) * number
        on_device = sum(weights(part) for part in plan.resident | set(parts))
        peaks[stage] = on_device + kept + (fixed + each * voxels) * number // 2
    return peaks


def choose(
    name: str,
    device: torch.device,
    half: torch.dtype | None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    free: int | None = None,
    usual: int = USUAL,
    large: int = LARGE,
) -> Plan:
    """The plan of that name; "auto": the largest whose expected peak leaves a tenth of the device's memory free.

    Args:
        name: of `NAMES`.
        device: that the parts run on.
        half, sizes: see `expected_peaks`.
        free: bytes; None asks the device. Where it does not know, "auto" is the smallest plan.
        usual, large: see `USUAL`.

    Raises:
        FastSam3dError: there is no such plan.
        DoesNotFitDevice: the smallest plan, or the plan that was asked for, needs more than there is.
    """
    if name not in NAMES:
        raise FastSam3dError(f"there is no memory plan '{name}': give one of {', '.join(NAMES)}")
    free = free_bytes(device) if free is None else free
    if free is None:
        return smallest() if name == AUTO else PLANS[name]
    beside = HOST if device.type == "cpu" else 0

    def needs(plan: Plan, voxels: int) -> int:
        return max(expected_peaks(plan, voxels, half, sizes).values()) + beside

    least = needs(smallest(), usual)
    if least > free:
        raise DoesNotFitDevice(
            f"{device} has {free / GIB:.1f} GiB of free memory, and the smallest memory plan needs about "
            f"{least / GIB:.1f} GiB for an object of {usual:,} voxels: close other programs that use the device, or "
            + ("take a machine with more memory" if device.type == "cpu" else "run on the CPU (pipeline.device=cpu)")
        )
    if name == AUTO:
        fit = [plan for plan in PLANS.values() if needs(plan, large) <= 0.9 * free]
        return fit[-1] if fit else smallest()
    needed = needs(PLANS[name], usual)
    if needed > free:
        raise DoesNotFitDevice(
            f"memory plan {name} needs about {needed / GIB:.1f} GiB for an object of {usual:,} voxels, and {device} "
            f"has {free / GIB:.1f} GiB of free memory: leave pipeline.memory at auto, which chooses one that fits"
        )
    return PLANS[name]
