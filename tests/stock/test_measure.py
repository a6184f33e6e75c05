"""Measurement of small stock parts, without and with their savings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fast_sam3d.bench import exact_parts as measure
from tests.stock.stand_ins import importable


@pytest.fixture(autouse=True)
def imported() -> None:
    with importable():
        import sam3d_objects.model.backbone.tdfy_dit.modules.sparse
        import sam3d_objects.model.backbone.tdfy_dit.representations.mesh  # noqa: F401


def test_measures_extraction() -> None:
    before = torch.get_rng_state()
    compared = measure.extraction(4.0, rounds=1, resolution=12)
    assert torch.equal(torch.get_rng_state(), before)
    assert compared.equal and len(compared.seconds) == 1
    assert compared.label.startswith("mesh extraction, 3")


@pytest.mark.parametrize(("settings", "says"), [(measure.DECODER, "windowed"), (measure.SAMPLER, "full")])
def test_measures_attention(settings: dict[str, Any], says: str) -> None:
    compared = measure.attention(6.0, settings, rounds=1, resolution=16)
    assert compared is not None and compared.equal
    assert compared.label.startswith(f"{says} attention, ")
