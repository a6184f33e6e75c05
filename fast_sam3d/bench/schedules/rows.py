"""The rows of an evaluation: fewer steps, presets, methods with fixed steps at several strides, and paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fast_sam3d.bench.schedules.solves import Method
from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.config.resolve import resolve
from fast_sam3d.documents import read_json
from fast_sam3d.errors import ConfigError

__all__ = ["BASELINE", "Row", "plan"]

BASELINE = "baseline"
FEWER_STEPS = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20)
STRIDES = (2, 4, 6)
BUDGETS = {*range(4, 17), 18, 19, 20, 22, 24, 26, 28, 30}
"""Network calls of the paths that are evaluated."""
GROWTHS = (0.4, 1.5)
EVALUATIONS = (6, 8, 12, 14, 16)
BY_VALUES = {"budget", "stability", "saliency", "adaptive", "dmd", "random", "tome", "controller"}
"""Parts that decide by an object's values, or mix the tokens of all: their objects are solved one by one."""


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        stage: "ss" or "slat".
        sampler: of the sparse structure; "" for the other stage, which has one.
        kind: "baseline", "fewer steps", "preset", "path", "calibrated" or "method".
        name: unique within kind, stage and sampler.
        together: objects are solved as one batch.
    """

    stage: str
    sampler: str
    kind: str
    name: str
    method: Method
    together: bool = True

    @property
    def key(self) -> str:
        """Unique."""
        return "/".join(part for part in (self.stage, self.sampler, self.kind, self.name) if part)


def plan(samplers: Sequence[str], calibrated: Path | None = None, stages: Sequence[str] = ("ss", "slat")) -> list[Row]:
    """All rows, the most important first.

    Args:
        samplers: of the sparse structure, by name.
        calibrated: what a search wrote: {stage: {sampler: {number of calls: settings}}}, "" as SLaT's sampler.
        stages: to evaluate.

    Raises:
        ConfigError: `calibrated` is not such a file.
    """
    found = {} if calibrated is None else _read(calibrated)
    rows: dict[Any, Row] = {}
    places = [("ss", sampler) for sampler in samplers if "ss" in stages]
    places[1:1] = [("slat", "")] * ("slat" in stages)
    for kind in (_baselines, _presets, _calibrated, _methods, _sweeps):
        for stage, sampler in places:
            for row in kind(stage, sampler, found):
                same = "" if row.kind == "method" else row.key  # methods that differ in nothing are one
                settings = json.dumps(row.method.settings, sort_keys=True)
                rows.setdefault((stage, sampler, row.method.steps, settings, same), row)
    return sorted(rows.values(), key=lambda row: not row.together)


def _baselines(stage: str, sampler: str, found: Mapping[str, Any]) -> Iterator[Row]:
    yield Row(stage, sampler, BASELINE, BASELINE, Method())
    for steps in FEWER_STEPS:
        yield Row(stage, sampler, "fewer steps", f"{steps} steps", Method(steps=steps))


def _presets(stage: str, sampler: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for name in group_options()["preset"]:
        if name != "off":
            yield _row(stage, sampler, "preset", name, _preset(name).get(stage))


def _calibrated(stage: str, sampler: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for name in ("robust", sampler):
        for calls, settings in found.get(stage, {}).get(name, {}).items():
            kind = "robust path" if name == "robust" else "path"
            if int(calls) not in BUDGETS:
                continue
            yield _row(stage, sampler, kind, f"{calls} calls", settings)


def _methods(stage: str, sampler: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for name in group_options()[stage]:
        if name != "off":
            yield _row(stage, sampler, "method", name, _settings(stage, name))


def _sweeps(stage: str, sampler: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for name in group_options()[stage]:
        settings = _settings(stage, name) or {}
        when = settings.get("when", {})
        changes: dict[str, list[dict[str, Any]]] = {
            "stride": [{"stride": value} for value in STRIDES],
            "guided_stride": [{"stride": a, "late": b} for a, b in ((2, 2), (3, 3), (6, 6))],
            "widening": [{"growth": value} for value in GROWTHS],
            "aligned": [{"evaluations": value} for value in EVALUATIONS],
        }
        for change in changes.get(when.get("name", ""), []):
            if any(when.get(key) != value for key, value in change.items()):
                label = ", ".join(f"{key} {value}" for key, value in change.items())
                predict = _with_stride(settings.get("predict", {}), change)
                changed = {**settings, "when": {**when, **change}, "predict": predict}
                yield _row(stage, sampler, "method", f"{name} ({label})", changed)


def _with_stride(predict: Mapping[str, Any], change: Mapping[str, Any]) -> Mapping[str, Any]:
    """The predictors, of which some know the schedule's stride, as the files have it."""
    if any(isinstance(part, Mapping) for part in predict.values()):
        return {leaf: _with_stride(part, change) for leaf, part in predict.items()}
    return {**predict, "stride": change["stride"]} if "stride" in predict else predict


def _row(stage: str, sampler: str, kind: str, name: str, settings: Mapping[str, Any] | None) -> Row:
    parts = [value for value in (settings or {}).values() if isinstance(value, Mapping)]
    parts += [value for part in parts for value in part.values() if isinstance(value, Mapping)]
    together = not any(part.get("name") in BY_VALUES for part in parts)
    return Row(stage, sampler, kind, name, Method(settings or None), together)


@cache
def _settings(stage: str, name: str) -> Mapping[str, Any] | None:
    settings = compose([f"{stage}={name}"])[0][stage]
    return {key: value for key, value in settings.items() if key != "about"} if settings else None


@cache
def _preset(name: str) -> Mapping[str, Any]:
    return resolve(None, name, ()).modules


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = read_json(path)["paths"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no paths ({error}): give the JSON that `schedules.py search` wrote") from error
    return found
