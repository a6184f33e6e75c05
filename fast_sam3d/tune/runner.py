"""Measurement of candidates on a pipeline, by the same runs as the bench."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fast_sam3d.bench.job import PLACES, operations, order_of, seeded, warm_up
from fast_sam3d.bench.objects import BenchObject, Objects
from fast_sam3d.bench.record import Rows
from fast_sam3d.bench.runs import VariantRun, run_variants
from fast_sam3d.bench.suite import OFF, OTHER_SEED
from fast_sam3d.bench.variant import Variant, variant_of
from fast_sam3d.errors import ConfigError
from fast_sam3d.metrics import PERFECT, Protocol, Reconstruction, compare
from fast_sam3d.run.object import RunSettings
from fast_sam3d.tune.drift import MEASURES
from fast_sam3d.tune.measurements import DRIFT, Case

log = logging.getLogger(__name__)


@dataclass
class PipelineRunner:
    """A `fast_sam3d.tune.measurements.Runner` over a pipeline.

    Args:
        pipeline: loaded, not accelerated.
        objects: source of the cases' objects; ground truth is not used.
        settings: of every run but for its seed and steps.
        measures: see `MEASURES`.
        counted: cases with one additional run per method to count operations.
        points: of `Protocol`.
    """

    pipeline: Any
    objects: Objects
    settings: RunSettings
    measures: tuple[str, ...]
    counted: frozenset[Case] = frozenset()
    points: int = Protocol.points
    _loaded: dict[str, BenchObject] = field(default_factory=dict)
    _variants: dict[str, Variant] = field(default_factory=dict)
    _warm: bool = False

    def __call__(self, methods: Sequence[str], case: Case) -> Rows:
        """See `fast_sam3d.tune.measurements.Runner`."""
        name, seed = case
        try:
            thing = self._object(name)
        except Exception as error:  # the other objects are used instead
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.warning("object %s cannot be loaded: %s", name, said)
            return [{"object": name, "seed": seed, "method": method, "error": said} for method in methods]
        refused: dict[str, str] = {}
        known = [variant for method in methods if (variant := self._variant(method, refused)) is not None]
        if not self._warm:
            warm_up(self.pipeline, thing.given, known, self.settings)
            self._warm = True
        # Depends on the methods too, so that the unaccelerated run is not always at the same position.
        digest = hashlib.sha256(" | ".join(methods).encode()).hexdigest()
        outcomes = run_variants(
            self.pipeline, thing.given, seeded(known, seed), self.settings,
            order_of(name + digest, seed, len(known)), catch=(Exception,), memory=True, name=name,
            keep=lambda result: Reconstruction.of(result).on_host(),
        )  # fmt: skip
        plain = next(outcome for outcome in outcomes if outcome.variant.name == OFF)
        drifts = self._drifts(outcomes, plain)
        count = case in self.counted
        rows: Rows = []
        for outcome, drift in zip(outcomes, drifts, strict=True):
            spent = {**outcome.columns(PLACES), "cpu_seconds": outcome.cpu_seconds}
            rows.append({
                "object": name, "seed": seed, "method": outcome.variant.name, "error": outcome.error,
                "place": outcome.place,
                **(dict.fromkeys(spent, math.nan) if outcome.error else spent),
                "operations": operations(self.pipeline, thing.given, outcome.variant, self.settings)
                if count and not outcome.error else math.nan,
                **drift,
            })  # fmt: skip
        rows += [{"object": name, "seed": seed, "method": method, "error": said} for method, said in refused.items()]
        return rows

    def _object(self, name: str) -> BenchObject:
        if name not in self._loaded:
            self._loaded[name] = self.objects.load(name)
        return self._loaded[name]

    def _variant(self, method: str, refused: dict[str, str]) -> Variant | None:
        if method in (OFF, OTHER_SEED):
            return Variant(method)
        if method not in self._variants:
            try:
                self._variants[method] = variant_of(method)
            except ConfigError as error:  # incompatible settings
                refused[method] = f"ConfigError: {error}"
                return None
        return self._variants[method]

    def _drifts(self, outcomes: Sequence[VariantRun], plain: VariantRun) -> list[dict[str, float]]:
        """Drift by measure of each outcome; empty for the baseline."""
        if plain.result is None:
            return [{} for _ in outcomes]
        protocol = Protocol(parts=tuple(dict.fromkeys(MEASURES[m][0] for m in self.measures)), points=self.points)
        drawn = [m for m in self.measures if m not in PERFECT]
        itself = dict(PERFECT)
        if drawn:
            parts = tuple(dict.fromkeys(MEASURES[m][0] for m in drawn))
            itself |= compare(plain.result, plain.result, Protocol(parts=parts, points=self.points))
        found: list[dict[str, float]] = []
        for outcome in outcomes:
            if outcome is plain:
                found.append({})
                continue
            result = outcome.result if outcome.result is not None else Reconstruction(failed=True)
            scores = compare(result, plain.result, protocol)
            found.append({DRIFT + m: drift(m, scores, itself) for m in self.measures})
        return found


def drift(measure: str, scores: Mapping[str, float], itself: Mapping[str, float]) -> float:
    """Score of the baseline against itself minus a score, signed so that worse is positive; NaN if unknown."""
    far = itself.get(measure, math.nan) - scores.get(measure, math.nan)
    return far * MEASURES[measure][1]
