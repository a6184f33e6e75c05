"""The contract on the embedded pipeline's own classes with small random weights."""

from __future__ import annotations

import torch

import fast_sam3d
from tests.beds import EMBEDDED, differing
from tests.contract import METHODS, evaluated
from tests.contract_sam3d import Sam3dContract
from tests.minis import random_mini


class TestEmbedded(Sam3dContract):
    """See `Sam3dContract`."""

    bed = EMBEDDED

    def test_half_precision(self) -> None:
        half = random_mini()
        half.dtype = half.shape_model_dtype = torch.bfloat16
        expected = self.bed.run(half)
        with fast_sam3d.accelerated(half, METHODS["both"]) as handle:
            got = self.bed.run(half)
        assert got["shape"].dtype == expected["shape"].dtype
        assert evaluated(handle.report) == {"ss": 4, "slat": 5}
        assert differing(self.bed.run(half), expected) == set()
