"""The contract on the native pipeline with small random weights."""

from __future__ import annotations

from tests.contract_sam3d import Sam3dContract
from tests.native.tiny import NATIVE


class TestNative(Sam3dContract):
    """See `Sam3dContract`."""

    bed = NATIVE
    rest = False
