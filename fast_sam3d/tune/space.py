"""The search space: every method of configs/, with the settings of its classes that have a range for tuning.

A setting of the same class has the same name in every method, so that a sampler learns about it from all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fast_sam3d.config.catalogue import listed
from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.decode import MeshMethod
from fast_sam3d.ranges import OneOf, Range, tuned, written
from fast_sam3d.sampling.method import PARTS

STAGES = ("ss", "slat", "mesh")
"""In the order in which they run."""
EXACT = "exact=all"
"""Savings that change nothing: on in every candidate."""


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
        edits = [f"{knob.key}={value}" for knob, value in chosen if str(value) != written(knob.default)]
        return (f"{self.stage}={self.option}", *edits)

    def first(self) -> dict[str, Any]:
        """The sampler's parameters for the file's own settings, where those are within the ranges."""
        known = {knob.name: knob for knob in self.knobs if knob.range.holds(knob.default)}
        values = {name: written(k.default) if isinstance(k.range, OneOf) else k.default for name, k in known.items()}
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
    """Overrides by stage; a stage that is missing is not accelerated."""

    stages: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """All overrides, as `fast-sam3d infer` takes them."""
        return " ".join([*(text for stage in STAGES for text in self.stages.get(stage, ())), EXACT])


def _knobs(stage: str, settings: Mapping[str, Any]) -> Iterator[Knob]:
    if stage == "mesh":
        yield from _of("mesh", "mesh", MeshMethod, settings)
        return
    for part, classes in PARTS.items():
        node = settings.get(part) or {}
        nodes = {f"{stage}.{part}": node}
        if "name" not in node:
            nodes = {f"{stage}.{part}.{leaf}": inner for leaf, inner in node.items()}
        for path, inner in nodes.items():
            yield from _of(path, f"{part}.{inner['name']}", classes[inner["name"]], inner)


def _of(path: str, kind: str, settings_class: type, settings: Mapping[str, Any]) -> Iterator[Knob]:
    for key, values in tuned(settings_class).items():
        if key in settings:
            yield Knob(f"{path}.{key}", f"{kind}.{key}", values, settings[key])
