"""The contract on the native pipeline with small random weights."""

from __future__ import annotations

from tests.contract import Contract
from tests.native.tiny import NATIVE


class TestNative(Contract):
    """See `Contract`."""

    bed = NATIVE
    rest = False
