"""The contract on a stand-in with the surface of TRELLIS; on its own classes in tests/trellis."""

from __future__ import annotations

from tests.contract import FULL
from tests.contract_trellis import TrellisContract
from tests.trellis_like.beds import STAND_IN


class TestStandIn(TrellisContract):
    """See `Contract`."""

    bed = STAND_IN
    rest = False
    names = (*FULL[:3], *FULL[3::8])
