"""These tests run the stock classes, and are skipped as a whole where those are not importable.

    PYTHONPATH=<a clone of facebookresearch/sam-3d-objects> OMP_NUM_THREADS=1 python -m pytest tests/stock

Of its dependencies only `optree` must be installed; `stand_ins.py` has what is missing. No weights and no GPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISSING = [name for name in ("sam3d_objects", "optree") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        skip = pytest.mark.skip(reason=f"not importable here: {', '.join(MISSING)}")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)
