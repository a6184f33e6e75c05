"""Defaults and ranges of the methods' settings, so that none changes by accident: results depend on them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import pytest

import fast_sam3d
from fast_sam3d.exact import Exact
from fast_sam3d.ranges import OneOf, Real, Settings, Whole

KNOWN = {
    "MeshMethod": (
        "where='decoder' of decoder|voxels, weight=0.9 of 0..1, threshold_low=0.5 of 0..1, threshold_high=0.7 of 0..1,"
        " factors=(2.0, 1.5, 1.25), min_voxels=512 of 0.., crowded=0 of 0.., pool='max' of max|mean"
    ),
    "Adaptive": "threshold=0.99 of -1..2",
    "Reuse": "interval=5 of 1.., warmup=3 of 1..",
    "AdamsBashforth": "order=2 of 1..4",
    "Anchored": "beta=0.5 of 0..1",
    "Chebyshev": "terms=4 of 1..12, ridge=0.1 of 0..1e+06, blend=0.5 of 0..1",
    "Deis": "order=2 of 1..3",
    "DynamicModes": "least=4 of 3.., window=6, cutoff=0.0001 of 1e-12..0.5, order=2, sigma=0.5, stride=3",
    "Hermite": "order=2 of 1..2, sigma=0.5 of 0.001..10, stride=3 of 1..",
    "Live": "ahead=0.4 of 0..0.9, fallback='refuse' of refuse|anchored|hold",
    "MeanFlow": "window=2 of 1..",
    "Taylor": "order=1 of 0..2",
    "WeightedMultistep": "weights=()",
    "Aligned": "levels=(), evaluations=10 of 1..",
    "Budget": "threshold=1.5 of 1e-06..1e+06, warmup=3 of 2.., momentum=0.7 of 0..0.999",
    "GuidedStride": "stride=4 of 1.., late=4 of 1.., end=None, warmup=4 of 1..",
    "Late": "begin=0.75 of 0..1, stride=3 of 1..",
    "Magnitude": "ratios=(), threshold=0.12 of 1e-09..1e+06, longest=2 of 1.., warmup=5 of 1..",
    "Path": "nodes=(0, 4, 8, 12, 16, 19, 22), steps=25 of 1..1000, guided=19, rescale_t=3.0 of 0.001..1000",
    "Stride": "stride=3 of 1.., warmup=2 of 1..",
    "Widening": "first=2.0 of 1..1000, growth=0.75 of 0..1000, warmup=5 of 1..",
    "RandomCells": "keep=0.5 of 0.001..1, seed=0 of 0.., warmup=3 of 1..",
    "Saliency": "keep=0.1 of 0.001..1, gamma=0.7 of 0..100, cutoff=0.125 of 0..0.5, warmup=3 of 1..",
    "Stability": "full=0.2 of 0..1, decay=0.07 of 0..100, refresh=8 of 1.., longest=3 of 1.., change=0.7 of 0..1",
    "MergeCells": "merge=0.5 of 0..0.875, warmup=3 of 1..",
}


def kinds() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for package in ("sampling", "decode"):
        path = [f"{fast_sam3d.__path__[0]}/{package}"]
        for module in pkgutil.walk_packages(path, f"fast_sam3d.{package}."):
            found |= {
                name: kind
                for name, kind in vars(importlib.import_module(module.name)).items()
                if isinstance(kind, type) and issubclass(kind, Settings) and dataclasses.is_dataclass(kind)
            }
    return found


def shown(field: dataclasses.Field[Any]) -> str:
    match field.metadata.get("valid"):
        case Whole(low, high):
            return f"{field.name}={field.default!r} of {low}..{'' if high is None else high}"
        case Real(low, high):
            return f"{field.name}={field.default!r} of {low:g}..{high:g}"
        case OneOf(values):
            return f"{field.name}={field.default!r} of {'|'.join(values)}"
    return f"{field.name}={field.default!r}"


@pytest.mark.parametrize("name", KNOWN)
def test_defaults_and_ranges_of_a_method(name: str) -> None:
    assert ", ".join(map(shown, dataclasses.fields(kinds()[name]))) == KNOWN[name]


def test_every_exact_saving_is_on_by_default() -> None:
    assert set(Exact().settings().values()) == {True}


def test_settings_are_frozen_and_valid_by_default() -> None:
    for name, kind in kinds().items():
        assert kind.__dataclass_params__.frozen, name
        for field in dataclasses.fields(kind):
            assert field.metadata.get("valid") is None or field.metadata["valid"].holds(field.default), (name, field)
