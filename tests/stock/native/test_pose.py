"""Poses against the stock pose decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.native.pose import PoseDecoder
from tests.stock.stand_ins import importable


@pytest.fixture(scope="module")
def stock() -> Any:
    with importable():
        from sam3d_objects.pipeline.inference_utils import get_pose_decoder

        return get_pose_decoder("ScaleShiftInvariant")


def leaves(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"6drotation_normalized": 6, "scale": 3, "translation": 3, "translation_scale": 1}
    found = {name: torch.randn(1, 1, size, generator=generator) for name, size in sizes.items()}
    return {**found, "shape": torch.zeros(1, 8, 8)}


def test_equals_stock(stock: Any) -> None:
    for seed in range(30):
        given = leaves(seed)
        generator = torch.Generator().manual_seed(seed)
        scale = (torch.rand(1, 1, generator=generator) + 0.1).expand(1, 3)
        shift = torch.randn(1, 3, generator=generator)
        expected = stock(dict(given), scene_scale=scale, scene_shift=shift)
        found = PoseDecoder()(given, scene_scale=scale, scene_shift=shift)
        assert found.keys() == expected.keys()
        for name, value in expected.items():  # quaternions with their sign
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
            assert found[name].shape == value.shape
