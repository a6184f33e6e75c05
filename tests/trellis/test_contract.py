"""The contract on TRELLIS's own classes with small random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract_trellis import TrellisContract
from tests.trellis.build import random_image, random_text
from tests.trellis.stand_ins import on_cpu
from tests.trellis_like.beds import TrellisBed


class TestTrellis(TrellisContract):
    """See `Contract`."""

    bed = TrellisBed("trellis", random_image, on_cpu, text=random_text)
    rest = False

    @pytest.fixture(autouse=True)
    def _on_cpu(self) -> Iterator[None]:
        with on_cpu():  # solves of a sampler alone, too
            yield
