"""Measurement of small parts of the native runtime next to stock parts with the same weights."""

from __future__ import annotations

import pytest
import torch

from fast_sam3d.bench import native_parts as measure
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.native.mesh_decoder import MeshDecoderConfig
from tests.stock import sparse_convolution
from tests.stock.command import import_stock
from tests.stock.stand_ins import on_cpu

SMALL = MeshDecoderConfig(resolution=12, model_channels=256, num_blocks=2, num_heads=4)


@pytest.fixture(autouse=True)
def imported() -> None:
    import_stock()


def test_extraction_is_bit_equal() -> None:
    compared = measure.extraction(4.0, rounds=1, resolution=12)
    assert compared.equal and compared.label.startswith("mesh extraction, 3")


def test_attention_is_equal_up_to_rounding_with_fewer_operations() -> None:
    before = torch.get_rng_state()
    compared = measure.attention(6.0, rounds=1, resolution=16)
    assert compared.difference is not None and compared.difference < 1e-5
    assert compared.operations is not None and compared.operations[0] > 1.2 * compared.operations[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mesh_network_is_equal_up_to_rounding_with_fewer_operations() -> None:
    with on_cpu():
        compared = measure.network(4.0, rounds=1, config=SMALL)
    assert compared.difference is not None and compared.difference < 1e-4
    assert compared.operations is not None and compared.operations[0] > 1.5 * compared.operations[1]


@pytest.mark.skipif(not sparse_convolution.REAL, reason="needs spconv's own layers")
def test_the_mesh_network_is_refused_where_spconv_has_no_kernel() -> None:
    with pytest.raises(FastSam3dError, match="cannot be measured on cpu: .*--part extraction"):
        measure.network(4.0, rounds=1, config=SMALL)
