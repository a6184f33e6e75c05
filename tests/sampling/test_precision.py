"""Precision: every method at the published sizes under autocast, against itself in float32."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.config.methods import build_methods
from fast_sam3d.sampling.method import PARTS
from tests.sampling.published import Precision, accelerated, decisions

CLOSE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest value: twice the rounding of one value."""


def of_files() -> dict[str, dict[str, Any]]:
    """The method of each file of configs/ss and configs/slat, by "stage=file"."""
    return {
        f"{stage}={name}": {stage: compose([f"{stage}={name}"])[0][stage]}
        for stage in ("ss", "slat")
        for name in group_options()[stage]
        if name != "off"
    }


def of_classes(files: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """One method for each class of each question, with its settings as some file has them, and the rest plain."""
    settings = {
        (question, part["name"]): part
        for config in files.values()
        for method in build_methods(config).values()
        for question, found in method.settings().items()
        for part in (found.values() if question == "predict" else [found])
    }
    methods = {}
    for question, classes in PARTS.items():
        for name, kind in classes.items():
            part = settings.get((question, name), {"name": name})
            for stage in ("ss", "slat"):
                if not getattr(kind, {"ss": "needs_tokens", "slat": "needs_decoder"}[stage], False):
                    plain = {"when": {"name": "stride"}, "predict": {"name": "taylor"}}
                    methods[f"{stage} {question}={name}"] = {stage: {**plain, question: part}}
    return methods


FILES = of_files()
METHODS = FILES | of_classes(FILES)


@functools.cache
def solved(name: str, precision: Precision) -> tuple[Tensor, list[tuple[Any, ...]], set[torch.dtype]]:
    """The latent, the decisions, and the types of the velocities that the solver was given."""
    (stage,) = METHODS[name]
    with accelerated(precision, METHODS[name]) as (pipeline, report):
        latent = pipeline.run(stage)
    return latent, decisions(report.solves[0]), pipeline.solvers[stage].dtypes


@pytest.mark.parametrize("size", [1.0, 300.0])
@pytest.mark.parametrize("half", CLOSE)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_under_autocast_is_that_in_float32(name: str, half: torch.dtype, size: float) -> None:
    expected, decided, _ = solved(name, Precision(half, wide=True, size=size))
    assert torch.isfinite(expected).all() and True
    got, chosen, dtypes = solved(name, Precision(half, size=size))
    assert dtypes == {half}
    assert chosen == decided
    assert torch.isfinite(got).all()
    assert float((got - expected).abs().max() / expected.abs().max()) < CLOSE[half]
