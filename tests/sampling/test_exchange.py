"""Layers around the parts of a pipeline that inform its solves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.sampling.exchange import Exchange, RequireVoxels


def sample_slat(slat_input: Any, coords: torch.Tensor, steps: int = 25) -> int:
    return int(coords.max()) + steps


def test_a_structured_latent_needs_voxels() -> None:
    around, none = RequireVoxels(), torch.zeros(0, 4, dtype=torch.int32)
    assert around(Exchange(), sample_slat, {}, torch.ones(2, 4), steps=3) == 4
    assert around(Exchange(), sample_slat, slat_input={}, coords=torch.ones(2, 4)) == 26
    for args, kwargs in ((({}, none), {}), (({},), {"coords": none})):
        with pytest.raises(FastSam3dError, match="found no object in this picture"):
            around(Exchange(), sample_slat, *args, **kwargs)


def test_empty_structure_is_not_merged() -> None:
    assert MeshMethod(min_voxels=0).factor(0.1, 0) == 1.0
    assert MeshMethod(min_voxels=0).factor(0.1, 1) == 2.0
