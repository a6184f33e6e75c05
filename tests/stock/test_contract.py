"""The contract on the stock classes with small random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import Contract
from tests.stock import sparse_convolution
from tests.stock.build import STOCK


class TestStock(Contract):
    """See `Contract`."""

    bed = STOCK
    rest = False

    @pytest.fixture(autouse=True)
    def _on_cpu(self) -> Iterator[None]:
        with sparse_convolution.on_cpu():  # solves of a sampler alone, too
            yield
