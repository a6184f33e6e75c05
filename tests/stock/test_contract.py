"""The contract on the stock classes with small random weights."""

from __future__ import annotations

from tests.contract import Contract
from tests.stock.build import STOCK


class TestStock(Contract):
    """See `Contract`."""

    bed = STOCK
    rest = False
