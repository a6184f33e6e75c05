"""The contract on a stand-in with the surface of TRELLIS; on its own classes in tests/trellis."""

from __future__ import annotations

from tests.contract import Contract
from tests.trellis_like.beds import STAND_IN


class TestStandIn(Contract):
    """See `Contract`."""

    bed = STAND_IN
    rest = False
