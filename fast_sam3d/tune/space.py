"""What is searched: every method of configs/ with the settings that a search may change, and their ranges.

A method's file says which settings it has; `RANGES` says between which values each is worth trying. A setting of the
same class has the same name in every method: what is learnt of strides with one predictor counts for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fast_sam3d.config.catalogue import listed
from fast_sam3d.config.compose import compose, group_options

STAGES = ("ss", "slat", "mesh")
"""In the order in which they run."""
EXACT = "exact=all"
"""Savings that change nothing: on in every candidate."""
Value: TypeAlias = "int | float | str"


@dataclass(frozen=True)
class Whole:
    """Whole numbers, both ends included."""

    low: int
    high: int

    def ask(self, trial: Any, name: str) -> Value:
        """The sampler's choice."""
        return int(trial.suggest_int(name, self.low, self.high))

    def holds(self, value: Any) -> bool:
        """Whether a file's value can be tried."""
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Real:
    """Numbers, rounded to two significant digits, so that what comes out can be read."""

    low: float
    high: float
    log: bool = False

    def ask(self, trial: Any, name: str) -> Value:
        """The sampler's choice."""
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.2g}")

    def holds(self, value: Any) -> bool:
        """Whether a file's value can be tried."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high


@dataclass(frozen=True)
class OneOf:
    """Values as they are written in an override."""

    values: tuple[str, ...]

    def ask(self, trial: Any, name: str) -> Value:
        """The sampler's choice."""
        return str(trial.suggest_categorical(name, list(self.values)))

    def holds(self, value: Any) -> bool:
        """Whether a file's value can be tried."""
        return _written(value) in self.values


Range: TypeAlias = "Whole | Real | OneOf"

_WARMUP = Whole(1, 6)
RANGES: Mapping[str, Mapping[str, Range]] = {
    "when.stride": {"stride": Whole(2, 12), "warmup": _WARMUP},
    "when.guided_stride": {"stride": Whole(1, 8), "late": Whole(2, 10), "warmup": _WARMUP},
    "when.budget": {"threshold": Real(0.02, 5.0, log=True), "warmup": Whole(2, 6)},
    "when.late": {"begin": Real(0.3, 0.95), "stride": Whole(2, 6)},
    "when.magnitude": {"threshold": Real(0.02, 0.6, log=True), "longest": Whole(1, 6), "warmup": _WARMUP},
    "when.widening": {"first": Real(1.0, 4.0), "growth": Real(0.1, 3.0), "warmup": _WARMUP},
    "where.saliency": {"keep": Real(0.05, 1.0)},
    "where.random": {"keep": Real(0.2, 0.95)},
    "where.tome": {"merge": Real(0.05, 0.75)},
    "where.stability": {"full": Real(0.1, 0.6), "longest": Whole(1, 4)},
    "predict.taylor": {"order": Whole(0, 2)},
    "predict.anchored": {"beta": Real(0.0, 0.9)},
    "predict.adams_bashforth": {"order": Whole(2, 3)},
    "predict.deis": {"order": Whole(2, 3)},
    "predict.hermite": {"order": Whole(1, 2)},
    "predict.dmd": {"order": Whole(1, 2)},
    "predict.chebyshev": {"blend": Real(0.0, 1.0)},
    "predict.mean_flow": {"window": Whole(1, 4)},
    "guide.adaptive": {"threshold": Real(0.9, 0.999)},
    "guide.reuse": {"interval": Whole(2, 8), "warmup": _WARMUP},
    "mesh": {
        "threshold_low": Real(0.2, 0.55),
        "threshold_high": Real(0.6, 0.95),
        "factors": OneOf(("[2.0,1.5,1.25]", "[1.5,1.5,1.5]", "[1.5,1.25,1.0]", "[1.25,1.25,1.25]", "[1.25,1.0,1.0]")),
    },
}
"""Part and class, then setting."""


@dataclass(frozen=True)
class Knob:
    """One setting of one method.

    Args:
        key: of the configuration, "ss.when.stride".
        name: for the sampler, "when.stride.stride".
        range: of its values.
        default: the file's.
    """

    key: str
    name: str
    range: Range
    default: Any


@dataclass(frozen=True)
class Method:
    """An option of a stage's group with its knobs."""

    stage: str
    option: str
    knobs: tuple[Knob, ...] = field(default=())

    def ask(self, trial: Any) -> tuple[str, ...]:
        """Overrides as a sampler chooses them; those that are the file's own are left out."""
        chosen = [(knob, knob.range.ask(trial, knob.name)) for knob in self.knobs]
        edits = [f"{knob.key}={value}" for knob, value in chosen if str(value) != _written(knob.default)]
        return (f"{self.stage}={self.option}", *edits)

    def first(self) -> dict[str, Any]:
        """The sampler's parameters that give the file as it is, as far as they are within the ranges."""
        known = {knob.name: knob for knob in self.knobs if knob.range.holds(knob.default)}
        values = {name: _written(k.default) if isinstance(k.range, OneOf) else k.default for name, k in known.items()}
        return {"method": self.option, **values}


def methods(stage: str, embedded: bool = True) -> list[Method]:
    """The methods of a stage that can be tried, those that presets name first.

    Args:
        embedded: the pipeline is the embedded model; another one lacks the numbers of methods that were calibrated on
            it, and they are left out.
    """
    needs = {listing.name: listing.needs[stage] for listing in listed(stage)}
    groups = group_options()
    named = [compose([f"preset={preset}"])[1][stage] for preset in groups["preset"]]
    options = [name for name in dict.fromkeys([*named, *groups[stage]]) if name != "off"]
    if not embedded:
        options = [name for name in options if "calibration" not in needs.get(name, ())]
    return [Method(stage, option, tuple(_knobs(stage, compose([f"{stage}={option}"])[0][stage]))) for option in options]


def ask(trial: Any, choices: Sequence[Method]) -> tuple[str, ...]:
    """The overrides of one stage, as a sampler chooses them."""
    option = trial.suggest_categorical("method", [method.option for method in choices])
    return next(method for method in choices if method.option == option).ask(trial)


@dataclass(frozen=True)
class Candidate:
    """Overrides by stage; a stage that is missing is left as it is."""

    stages: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """All overrides, as `fast-sam3d infer` takes them."""
        return " ".join([*(text for stage in STAGES for text in self.stages.get(stage, ())), EXACT])


def _knobs(stage: str, settings: Mapping[str, Any]) -> Iterator[Knob]:
    if stage == "mesh":
        yield from _of("mesh", "mesh", settings)
        return
    for part in ("when", "where", "predict", "guide"):
        node = settings.get(part) or {}
        nodes = {f"{stage}.{part}": node}
        if "name" not in node:
            nodes = {f"{stage}.{part}.{leaf}": inner for leaf, inner in node.items()}
        for path, inner in nodes.items():
            yield from _of(path, f"{part}.{inner['name']}", inner)


def _of(path: str, kind: str, settings: Mapping[str, Any]) -> Iterator[Knob]:
    for key, values in RANGES.get(kind, {}).items():
        if key in settings:
            yield Knob(f"{path}.{key}", f"{kind}.{key}", values, settings[key])


def _written(value: Any) -> str:
    """As in an override: lists without blanks."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)
