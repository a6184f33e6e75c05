"""What is measured, in order of importance, and what fits into the time that is left."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import FrameType
from typing import Final

from fast_sam3d.bench.gpu.networks import OBJECT, PRECISIONS, SAMPLERS, STRUCTURE, Scale
from fast_sam3d.bench.operations import shell
from fast_sam3d.bench.variant import Variant, variant_of

SHARE: Final = 0.5
"""Expected mean time of a sampler over all variants, relative to off; for the plan alone, as the next."""
STOCK_SHARE: Final = 1.5
HELD: Final = "default, layout held"
PLAN_SECONDS: Final = 60.0
"""Expected of the first memory plan; the next ones as the one before."""


@dataclass(frozen=True)
class Cell:
    """One group of alternating runs.

    Args:
        precision: of PRECISIONS.
        radius: of the shell; None: the sparse structure.
        stock: the stock classes instead of this project's.
        compiled: the sampler's network is.
    """

    precision: str
    radius: float | None
    stock: bool = False
    compiled: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """That are measured."""
        return STRUCTURE if self.radius is None else OBJECT

    def label(self, scale: Scale) -> str:
        """For people."""
        what = "sparse structure" if self.radius is None else f"{voxels(self.radius, scale):,} voxels"
        return ", ".join([what, self.precision, *["compiled"] * self.compiled, *["stock"] * self.stock])


@cache
def voxels(radius: float, scale: Scale) -> int:
    """Of a shell."""
    return len(shell(radius, scale.resolution))


def cells(scale: Scale, stock: bool) -> list[Cell]:
    """Everything there is to measure, the most important first.

    The structured latent is not compiled, as in the stock pipeline: its shapes depend on the object.

    Args:
        stock: whether the stock classes are there.
    """
    published, half = PRECISIONS
    first, *others = scale.radii
    found = [Cell(published, radius, is_stock) for is_stock in (False, *[True] * stock) for radius in (None, first)]
    found += [Cell(published, radius) for radius in others]
    found += [Cell(half, radius) for radius in (None, *scale.radii)]
    found += [Cell(published, radius, stock=True) for radius in others if stock]
    return [*found, Cell(published, None, compiled=True)]


@cache
def variants(scale: Scale, compiled: bool = False) -> tuple[Variant, ...]:
    """The presets, the exact savings alone, a few plain steps, and the default preset without a live layout.

    The exact savings stay off in a compiled network, so they are left out there.
    """
    steps = f"pipeline.ss_steps={scale.steps} pipeline.slat_steps={scale.steps}"
    first, second = scale.fewer
    presets = ("default", "fast", "guided_stride", "fast_sam3d")
    named = {
        "off": steps,
        "exact": f"{steps} exact=all",
        **{name: f"{steps} preset={name}" for name in presets},
        f"{first} + {second} steps": f"exact=all pipeline.ss_steps={first} pipeline.slat_steps={second}",
    }
    found = [variant_of(text, name) for name, text in named.items() if not compiled or name != "exact"]
    if compiled:
        return tuple(found)
    return (*found, _held(next(variant for variant in found if variant.name == "default")))


def _held(variant: Variant) -> Variant:
    """The variant with the layout's velocity held between evaluations, to see what keeping it alive costs."""
    modules = dict(variant.config or {})
    predict = {**modules["ss"]["predict"], "layout": {"name": "hold"}}
    return replace(variant, name=HELD, config={**modules, "ss": {**modules["ss"], "predict": predict}})


class Clock:
    """Counts down from `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds

    def left(self) -> float:
        """Seconds, 0 when over."""
        return max(self.end - time.perf_counter(), 0.0)


@dataclass
class Pace:
    """How long things take here.

    Args:
        stages: name to the seconds without acceleration, at the first size.
        build: seconds of creating the networks.
    """

    stages: dict[str, float]
    build: float = 0.0

    def fixed(self, cell: Cell, scale: Scale) -> float:
        """Expected seconds before the first round, without the warm-up."""
        return self.build + scale.compile_seconds / 2 * cell.compiled

    def a_round(self, cell: Cell, scale: Scale) -> float:
        """Expected seconds of one round. Attention grows faster than the number of voxels."""
        each = sum(self.stages[stage] * (SHARE if stage in SAMPLERS else 1.0) for stage in cell.stages)
        if cell.radius is not None:
            each *= (voxels(cell.radius, scale) / voxels(scale.radii[0], scale)) ** 1.1
        return each * len(variants(scale, cell.compiled)) * (STOCK_SHARE if cell.stock else 1.0)

    def rounds(self, cell: Cell, scale: Scale, wanted: int, left: float) -> int:
        """How many of the wanted rounds fit after the warm-up; 0: none."""
        fitting = (left - self.fixed(cell, scale)) / max(self.a_round(cell, scale), 1e-9) - 1
        return max(0, min(wanted, int(fitting)))

    def seconds(self, cell: Cell, scale: Scale, rounds: int) -> float:
        """Expected of a cell with its warm-up."""
        return self.fixed(cell, scale) + self.a_round(cell, scale) * (rounds + 1)


class OutOfTime(Exception):
    """A compilation, or the whole measurement, takes longer than it may."""


@contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Raise OutOfTime when the block takes longer; without effect off the main thread and on Windows."""
    here = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not here or not math.isfinite(seconds):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    except _TooSlow as error:
        raise OutOfTime(f"{what} takes longer than {seconds:.0f} s") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class _TooSlow(BaseException):
    """As no `except Exception` of the compiler catches it."""
