"""Time and peak memory of parts of the stock code, with and without an exact saving, in alternating runs.

Mesh extraction on the 256^3 grid, one layer of a decoder's windowed attention and one of the SLaT network's full
attention, at the published sizes with random weights. The stock code must be installed.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fast_sam3d.bench.operations import shell
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.exact.attention import fits, without_masks
from fast_sam3d.exact.extraction import ExtractionSeam
from fast_sam3d.patch import Layer, Patch

logger = logging.getLogger(__name__)

RADII: Final = (18.9, 29.6)
"""Radii of spherical shells in a 64^3 grid: about 8,000 and 20,000 voxels."""

ROUNDS: Final = 7
RESOLUTION: Final = 64
FINE: Final = 4
"""Mesh cells per voxel side."""

DECODER: Final[dict[str, Any]] = {
    "channels": 768,
    "num_heads": 12,
    "attn_mode": "windowed",
    "window_size": 8,
    "shift_window": (0, 0, 0),
}
SAMPLER: Final[dict[str, Any]] = {"channels": 1024, "num_heads": 16, "attn_mode": "full"}
PACKED: Final = 4.35
"""Voxels per token of the SLaT network."""


@dataclass(frozen=True)
class Comparison:
    """Measurements of one part without ("off") and with ("on") its saving.

    Args:
        label: of the part.
        seconds: (off, on) of each round.
        peaks: (off, on) of each round, bytes above those in use before; None if unknown.
        equal: whether the outputs are bitwise equal.
        difference: largest absolute difference of the outputs; None if they have different shapes.
        operations: (off, on), 2 per multiply-add; None if they were not counted.
    """

    label: str
    seconds: tuple[tuple[float, float], ...]
    peaks: tuple[tuple[int | None, int | None], ...]
    equal: bool
    difference: float | None = None
    operations: tuple[int, int] | None = None

    @property
    def faster(self) -> float:
        """Median over the rounds of off / on."""
        return statistics.median(off / on for off, on in self.seconds)

    def median_seconds(self) -> tuple[float, float]:
        """Off and on."""
        off, on = zip(*self.seconds, strict=True)
        return statistics.median(off), statistics.median(on)

    def median_peaks(self) -> tuple[float, float] | None:
        """Off and on, bytes."""
        known = [(off, on) for off, on in self.peaks if off is not None and on is not None]
        if not known:
            return None
        off, on = zip(*known, strict=True)
        return statistics.median(off), statistics.median(on)


def compare(
    label: str,
    off: Callable[[Any], Any],
    on: Callable[[Any], Any],
    given: Callable[[], Any],
    rounds: int = ROUNDS,
    device: torch.device | str = "cpu",
    counted: bool = False,
) -> Comparison:
    """Alternate runs of both on new inputs; the first one changes every round.

    Args:
        off, on: input -> one or more tensors.
        given: creates an input, outside the measurement.
        counted: count operations, in a first run of both that is not timed.
    """
    outputs, operations = [], []
    for call in (off, on):
        with counter() if counted else nullcontext() as found:
            outputs.append(call(given()))
        operations.append(found.get_total_flops() if found else 0)
    equal, difference = _equal(*outputs), _difference(*outputs)
    del outputs
    seconds: list[tuple[float, float]] = []
    peaks: list[tuple[int | None, int | None]] = []
    for number in range(rounds):
        taken: dict[int, tuple[float, int | None]] = {}
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            taken[which] = measured(on if which else off, given(), torch.device(device))
        seconds.append((taken[0][0], taken[1][0]))
        peaks.append((taken[0][1], taken[1][1]))
        logger.info("%s, round %d of %d: %.2f s, %.2f s", label, number + 1, rounds, *seconds[-1])
    both = (operations[0], operations[1]) if counted else None
    return Comparison(label, tuple(seconds), tuple(peaks), equal, difference, both)


def counter() -> FlopCounterMode:
    """Counts operations; of itself torch counts those of attention on GPUs, not on CPUs."""

    def fused(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    )


def measured(call: Callable[[Any], Any], given: Any, device: torch.device) -> tuple[float, int | None]:
    """Seconds of a call, and its peak memory in bytes above that in use before."""
    gc.collect()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before: int | None = torch.cuda.memory_allocated(device)
    else:
        before = _reset_host_peak()
    start = time.perf_counter()
    result = call(given)
    synchronise(device)
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _host("VmHWM")
    del result
    return took, None if before is None or peak is None else max(peak - before, 0)


def synchronise(device: torch.device) -> None:
    """Wait for everything that was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def extraction(radius: float, rounds: int = ROUNDS, device: str = "cpu", resolution: int = RESOLUTION) -> Comparison:
    """The stock mesh extractor on a spherical shell: all cells against surface cells."""
    kind, _ = stock_parts()
    extractor = kind(device=device, res=resolution * FINE, use_color=True)
    coords, feats = cells(radius, resolution, extractor.feats_channels)
    coords, feats = coords.to(device), feats.to(device)
    decoder: Any = nn.Module()
    decoder.mesh_extractor = extractor
    patch = Patch()
    patch.add(decoder, "mesh_extractor", Layer(None, True), lambda: ExtractionSeam(decoder))

    def parts(extract: Callable[..., Any]) -> Callable[[Any], Any]:
        def run(given: Any) -> Any:
            mesh = extract(given, training=False)
            return mesh.vertices, mesh.faces, mesh.vertex_attrs

        return run

    label = f"mesh extraction, {len(coords) // FINE**3:,} voxels"
    with torch.no_grad():  # the extractor modifies its input
        return compare(
            label,
            parts(extractor),
            parts(decoder.mesh_extractor),
            lambda: SimpleNamespace(coords=coords, feats=feats.clone()),
            rounds,
            device,
        )


def attention(
    radius: float, settings: dict[str, Any], rounds: int = ROUNDS, device: str = "cpu", resolution: int = RESOLUTION
) -> Comparison | None:
    """One layer of sparse attention, with and without its mask; None if it has no mask."""
    _, sparse = stock_parts()
    full = settings["attn_mode"] == "full"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = sparse.SparseMultiHeadAttention(**settings).to(device).eval().requires_grad_(False)
    if not fits(layer):
        logger.info("sparse attention uses no mask here: nothing to measure")
        return None
    coords = shell(radius / math.sqrt(PACKED) if full else radius, resolution).to(device)
    x = torch.randn(len(coords), settings["channels"], generator=torch.Generator().manual_seed(0)).to(device)
    label = f"{'full' if full else 'windowed'} attention, {len(coords):,} {'tokens' if full else 'voxels'}"
    with torch.no_grad():
        return compare(
            label,
            lambda given: (layer(given).feats,),
            lambda given: (without_masks(layer.forward)(given).feats,),
            lambda: sparse.SparseTensor(x, coords),
            rounds,
            device,
        )


def everything(parts: Sequence[str], rounds: int = ROUNDS, device: str = "cpu") -> Iterator[Comparison]:
    """The parts "extraction" and "attention", on both shells."""
    for radius in RADII:
        if "extraction" in parts:
            yield extraction(radius, rounds, device)
        if "attention" in parts:
            for settings in (DECODER, SAMPLER):
                compared = attention(radius, settings, rounds, device)
                if compared is not None:
                    yield compared


def overhead(rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of `import fast_sam3d` in a fresh interpreter, and of `accelerate` on the embedded pipeline."""
    from fast_sam3d.api import accelerate
    from fast_sam3d.checkpoints.load import load_pipeline

    code = "import time; start = time.perf_counter(); import fast_sam3d; print(time.perf_counter() - start)"
    imports = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(rounds)]
    pipeline = load_pipeline("mini")
    accelerate(pipeline).remove()  # the first one imports Hydra
    installs = []
    for _ in range(rounds):
        start = time.perf_counter()
        handle = accelerate(pipeline)
        installs.append(time.perf_counter() - start)
        handle.remove()
    return {"import": statistics.median(map(float, imports)), "accelerate": statistics.median(installs)}


def stock_parts() -> tuple[Any, Any]:
    """The mesh extractor class and the sparse package of the stock code."""
    try:
        from sam3d_objects.model.backbone.tdfy_dit.modules import sparse
        from sam3d_objects.model.backbone.tdfy_dit.representations.mesh import SparseFeatures2Mesh
    except ImportError as error:
        raise FastSam3dError(
            f"the stock parts cannot be imported ({error}): install SAM 3D Objects from its repository "
            "(facebookresearch/sam-3d-objects); the embedded model has no such parts"
        ) from error
    return SparseFeatures2Mesh, sparse


def cells(radius: float, resolution: int, channels: int) -> tuple[Tensor, Tensor]:
    """coords [N, 4] and feats [N, channels] of a decoder: signed distances of a sphere with noise."""
    voxels = shell(radius, resolution)
    steps = torch.stack(torch.meshgrid(*[torch.arange(FINE)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    cells = (voxels[:, None, 1:] * FINE + steps).reshape(-1, 3)
    corners = torch.tensor([[j & 1, j >> 1 & 1, j >> 2] for j in range(8)])
    feats = 0.3 * torch.randn(len(cells), channels, generator=torch.Generator().manual_seed(0))
    away = ((cells[:, None] + corners) / FINE - resolution / 2).norm(dim=-1) - radius
    feats[:, :8] = away / FINE + 0.1 * feats[:, :8]
    return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1).int(), feats


def _difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float | None:
    if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return None
    return max((float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _reset_host_peak() -> int | None:
    """Reset the peak resident memory of this process; returns the current bytes, None if not on Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # otherwise memory freed before is reused without being counted
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError, TypeError):
        return None
    return _host("VmRSS")


def _host(field: str) -> int | None:
    """A field of /proc/self/status in bytes, None if not on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
