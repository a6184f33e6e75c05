"""The contract on the stock classes with small random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract_sam3d import Sam3dContract
from tests.stock import sparse_convolution
from tests.stock.build import STOCK


class TestStock(Sam3dContract):
    """See `Sam3dContract`."""

    bed = STOCK
    rest = False

    @pytest.fixture(autouse=True)
    def _on_cpu(self) -> Iterator[None]:
        with sparse_convolution.on_cpu():  # solves of a sampler alone, too
            yield
