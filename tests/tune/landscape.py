"""A fake pipeline with speed and drift given by formulas, so that the best settings are known."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.tune.measurements import Case
from fast_sam3d.tune.space import EXACT, STAGES

MEASURES = ("voxel_iou", "ssim")
NOISE = {"voxel_iou": 0.5, "ssim": 0.2}
SECONDS = {"ss": 3.0, "slat": 6.0, "mesh": 1.0}
"""Seconds of the unaccelerated stages."""
CASES = tuple((f"object {i}", 42) for i in range(6))
HELD_OUT = tuple((f"other {i}", 42) for i in range(5))


def settings(method: str, stage: str) -> dict[str, str] | None:
    """The overrides of one stage: its option as "", the rest by their last part; None where it is off."""
    own = [text.split("=") for text in method.split() if text.split("=")[0].split(".")[0] == stage]
    return {key.rpartition(".")[2] if "." in key else "": value for key, value in own} or None


def alone(stage: str, chosen: dict[str, str] | None) -> tuple[float, float]:
    """Seconds and the share of the noise that a stage's setting has alone: strides save, and drift squarely."""
    if chosen is None:
        return SECONDS[stage], 0.0
    if stage == "mesh":
        return 0.6, 0.5
    stride = float(chosen.get("stride", 3.0))
    # The structure drifts faster than the latent; some predictors are better than others.
    quality = 1.0 if chosen[""] in ("fast_sam3d", "step_cache") else 1.5
    return SECONDS[stage] / stride, {"ss": 0.02, "slat": 0.004}[stage] * (stride - 1) ** 2 * quality


def truth(method: str) -> tuple[float, float]:
    """Times faster, and the share of the noise, without any spread."""
    parts = [alone(stage, settings(method, stage)) for stage in STAGES]
    share = math.sqrt(sum(share**2 for _, share in parts))  # less than their sum, as drifts are
    return sum(SECONDS.values()) / sum(seconds for seconds, _ in parts), share


@dataclass
class Landscape:
    """A `Runner`. `fails` and `stop_after` break it."""

    spread: float = 0.05
    fails: str = "nothing fails"
    stop_after: int | None = None
    factor: float = 1.0
    calls: list[tuple[tuple[str, ...], Case]] = field(default_factory=list)

    def __call__(self, methods: Sequence[str], case: Case) -> list[dict[str, object]]:
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((tuple(methods), case))
        return [self.row(method, case) for method in methods]

    def row(self, method: str, case: Case) -> dict[str, object]:
        row: dict[str, object] = {"object": case[0], "seed": case[1], "method": method, "error": ""}
        random = np.random.default_rng(zlib.crc32(f"{method} {case}".encode()))
        hard = 0.8 + 0.4 * np.random.default_rng(zlib.crc32(case[0].encode())).random()
        speed, share = (1.0, 1.0) if method in (OFF, OTHER_SEED) else truth(method)
        jitter = 1.0 + self.spread * random.uniform(-1, 1)
        row |= {"seconds": 10.0 / speed * jitter, "network_calls": round(75 / speed), "operations": math.nan}
        row |= {f"{stage}_seconds": alone(stage, settings(method, stage))[0] for stage in STAGES}
        if method == OFF:
            return row
        scale = 1.0 if method in (OTHER_SEED, EXACT) else self.factor
        row |= {
            f"drift_{m}": scale * share * NOISE[m] * hard * (1 + self.spread * random.uniform(-1, 1)) for m in MEASURES
        }
        if self.fails in method:
            row["error"] = "RuntimeError: planned failure"
        return row


class Clock:
    """A clock that advances by a second per call."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
