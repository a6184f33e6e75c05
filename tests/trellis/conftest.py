"""These tests run TRELLIS's classes, and are skipped as a whole where those are not importable.

    PYTHONPATH=<a clone of microsoft/TRELLIS with its submodules> OMP_NUM_THREADS=1 python -m pytest tests/trellis

None of its dependencies must be installed: `stand_ins.py` has what a run needs of them. With `spconv` (its wheel for
the CPU is enough) sparse convolutions are its own, as in tests/stock. No weights and no GPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trellis.stand_ins import home

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if home() is None:
        skip = pytest.mark.skip(reason="not importable here: trellis, with its submodule FlexiCubes")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)
